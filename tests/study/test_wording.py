"""Protocols and audits in words: nothing unsaid, nothing said wrongly."""

from __future__ import annotations

from typing import Any

import pytest

from prerank.data.build import build
from prerank.data.protocol import PRESETS, Protocol, preset
from prerank.data.sources.synthetic import checkerboard
from prerank.study.wording import AUDIT, audit_in_words, protocol_in_words

WORDS = {
    "din": (
        "Every event of a user but the first is a positive and gets one negative, drawn uniformly from the items that "
        "the user never touches, before or after. A row sees at most 50 of the user's behaviours before its event, the "
        "most recent ones. Events of one user at the same time keep the order of the source's file. The test part is "
        "each user's last positive. Validation, which chooses the epoch to keep, is 20 % of the remaining requests, "
        "drawn at random. All draws use seed 1234."
    ),
    "dien": (
        "Each user's last of several events is a positive and gets one negative, drawn from the events, so in "
        "proportion to popularity; only the positive itself is excluded. A row sees at most 100 of the user's "
        "behaviours before its event, the most recent ones. Events of one user at the same time keep the order of the "
        "source's file. The test part is all rows of 10 % of the users, drawn at random. Validation, which chooses the "
        "epoch to keep, is the remaining requests of 20 % of their users, drawn at random. All draws use seed 1234."
    ),
    "inttower": (
        "An event is a positive if its rating is at least 4, else a negative. Ratings of 3 are left out. A row sees at "
        "most 50 of the user's behaviours before its event, the most recent ones. Events of one user at the same time "
        "keep the order of the source's file. The test part is 20 % of the rows, drawn at random, so training has "
        "later rows too. Validation, which chooses the epoch to keep, is 20 % of the remaining requests, drawn at "
        "random. All draws use seed 1234."
    ),
}

STAGED = {**PRESETS["impressions"], "labels": "stages"}

CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("din", {"history": 7}),
    ("din", {"ties": "shuffled"}),
    ("din", {"ties": "strict"}),
    ("din", {"drop_ratings": (3.0,)}),
    ("din", {"drop_ratings": (3.0, 2.5)}),
    ("din", {"users": "has_history"}),
    ("din", {"users": "has_click"}),
    ("din", {"labels": "rating"}),
    ("din", {"labels": "given"}),
    ("din", {"targets": "last"}),
    ("din", {"negatives": 4}),
    ("din", {"negatives_from": "events"}),
    ("din", {"test": "time", "test_size": 1}),
    ("din", {"test_size": 10}),
    ("din", {"validation": 0.125}),
    ("din", {"validation_by": "users"}),
    ("din", {"validation_by": "time"}),
    ("din", {"seed": 5}),
    ("inttower", {"positive_rating": 3.5}),
    ("inttower", {"test": "users"}),
    ("impressions", {"test_size": 3600}),
    ("impressions", {"labels": "stages"}),
    ("staged", {"per_stage": 3}),
]


@pytest.mark.parametrize("name", list(WORDS))
def test_presets_in_words(name: str) -> None:
    assert protocol_in_words(preset(name)) == WORDS[name]


@pytest.mark.parametrize(("base", "change"), CHANGES)
def test_every_choice_is_said(base: str, change: dict[str, Any]) -> None:
    values = {"name": base, **(STAGED if base == "staged" else PRESETS[base])}
    before, after = Protocol(**values), Protocol(**{**values, **change})
    assert protocol_in_words(before) != protocol_in_words(after)


def test_the_list_above_covers_every_choice() -> None:
    changed = {key for _, change in CHANGES for key in change}
    assert changed == set(Protocol.model_fields) - {"name"}


def test_size_of_the_test_part_in_words() -> None:
    assert "The test part is each user's last 10 positives." in protocol_in_words(preset("din", ["test_size=10"]))
    assert "The test part is the last 86400 units of time" in protocol_in_words(preset("taobao"))


@pytest.mark.parametrize("changes", [[], ["ties=strict"], ["negatives_from=events"], ["test=rows", "test_size=0.2"]])
def test_every_audit_count_has_words(changes: list[str]) -> None:
    dataset = build(checkerboard(users=20, items=40, events_per_user=6), preset("din", changes))
    assert set(dataset.facts["leak_audit"]) <= set(AUDIT)


def test_an_unforeseen_count_is_shown_by_its_name() -> None:
    assert audit_in_words("info_new_kind_of_leak") == "new kind of leak"
