"""Protocols: the presets, and combinations that say one thing and do another."""

from __future__ import annotations

import pytest

from prerank.config import parse
from prerank.data.protocol import PRESETS, Protocol, preset
from prerank.errors import ConfigError


def test_presets_are_valid_and_carry_their_name() -> None:
    for name in PRESETS:
        assert preset(name).name == name
        assert parse(Protocol, preset(name).model_dump(mode="json"), "dataset.json") == preset(name)


def test_din_is_the_default_protocol() -> None:
    assert preset("din").model_copy(update={"name": "custom"}) == Protocol()


def test_impressions_do_not_see_clicks_of_their_own_page() -> None:
    assert {preset(name).ties for name in ("impressions", "taobao")} == {"strict"}


def test_changes_apply_on_top_of_the_preset() -> None:
    protocol = preset("fit", ["ties=shuffled", "drop_ratings=[1, 2]", "history=20"])
    assert (protocol.name, protocol.ties, protocol.drop_ratings, protocol.history) == (
        "fit",
        "shuffled",
        (1.0, 2.0),
        20,
    )


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dinn", [], "--preset dinn: unknown; presets: din, fit, dien"),
        ("din", ["tie=strict"], "protocol din: tie: unknown key; did you mean 'ties'?"),
        ("din", ["ties=random"], "protocol din: ties: input should be 'file', 'shuffled' or 'strict' (got 'random')"),
        ("din", ["test_size=0"], "protocol din: test_size: input should be greater than 0 (got 0)"),
        ("din", ["test_size=1.5"], "test=last needs test_size as a whole number of events, got 1.5"),
        ("din", ["test=rows"], "test=rows needs test_size as a share below 1, got 1"),
        ("dien", ["test_size=10"], "test=users needs test_size as a share below 1, got 10"),
        ("din", ["validation=1"], "protocol din: validation: input should be less than 1 (got 1)"),
        ("impressions", ["negatives=4"], "negatives is read with labels=sampled or stages only, not with labels=given"),
        ("inttower", ["targets=last"], "targets is read with labels=sampled only, not with labels=rating"),
        ("din", ["positive_rating=3"], "positive_rating is read with labels=rating only, not with labels=sampled"),
        ("din", ["seed=-1"], "protocol din: seed: input should be greater than or equal to 0 (got -1)"),
    ],
)
def test_wrong_protocols_are_named_in_one_line(name: str, changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        preset(name, changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
