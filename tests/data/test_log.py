"""A built data set on disk: what is saved is loaded, and damage is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from prerank.data.build import build
from prerank.data.log import PARTS, Dataset, RawLog, Timelines
from prerank.data.protocol import Protocol, preset
from prerank.data.sources.synthetic import checkerboard
from prerank.errors import DataError
from prerank.schema import Field

COLUMNS = ("users", "ends", "items", "labels", "times")


def log(context: bool = False, records: bool = False) -> RawLog:
    raw = checkerboard(users=20, items=40, events_per_user=5)
    changes: dict[str, Any] = {}
    if context:
        changes["context"] = (Field(name="hour"),)
        raw = replace(raw, events=raw.events.with_columns(hour=pl.col("time") % 24))
    raw = replace(raw, events=raw.events.with_columns(label=pl.lit(1)))
    if records:
        changes |= {"history_of": "records", "history": ("category",)}
        views = raw.events.join(raw.items, left_on="item", right_on="item_id").select("user", "time", "category")
        raw = replace(raw, records=views)
    return replace(raw, schema=raw.schema.model_copy(update=changes))


def assert_same(one: Dataset, other: Dataset) -> None:
    for name in ("name", "schema", "protocol", "facts"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("users", "items", "behaviours"):
        assert_frame_equal(getattr(one, name), getattr(other, name))
    for name in ("offsets", "entries", "times"):
        assert np.array_equal(getattr(one.timelines, name), getattr(other.timelines, name))
    assert set(one.parts) == set(other.parts) == set(PARTS)
    for part in PARTS:
        for name in COLUMNS:
            saved, loaded = (getattr(dataset.parts[part], name) for dataset in (one, other))
            assert saved.dtype == loaded.dtype
            assert np.array_equal(saved, loaded)
        contexts = [dataset.parts[part].context for dataset in (one, other)]
        assert (contexts[0] is None) == (contexts[1] is None)
        if contexts[0] is not None and contexts[1] is not None:
            assert_frame_equal(contexts[0], contexts[1])


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("records", [False, True])
def test_what_is_saved_is_loaded(context: bool, records: bool, tmp_path: Path) -> None:
    dataset = build(log(context, records), Protocol(labels="given", drop_ratings=(), seed=7))
    dataset.save(tmp_path / "new" / "place")
    assert_same(Dataset.load(tmp_path / "new" / "place"), dataset)


def test_facts_survive_as_json(tmp_path: Path) -> None:
    dataset = build(log(), preset("din"))
    dataset.save(tmp_path)
    summary = json.loads((tmp_path / "dataset.json").read_text("utf-8"))
    assert summary["facts"] == dataset.facts
    assert summary["protocol"]["name"] == "din"


def test_a_log_without_any_behaviour_is_loaded_too(tmp_path: Path) -> None:
    raw = log()
    silent = replace(raw, events=raw.events.with_columns(behaviour=pl.lit(False)))
    dataset = build(silent, Protocol(labels="given"))
    dataset.save(tmp_path)
    assert_same(Dataset.load(tmp_path), dataset)


def test_saving_over_an_earlier_one_leaves_nothing_of_it(tmp_path: Path) -> None:
    build(log(context=True, records=True), Protocol(labels="given")).save(tmp_path)
    plain = build(log(), Protocol(labels="given", test_size=2))
    plain.save(tmp_path)
    assert_same(Dataset.load(tmp_path), plain)


def test_whoever_has_the_earlier_one_open_keeps_it(tmp_path: Path) -> None:
    """Truncating a mapped file would kill the process, not raise."""
    first, second = (build(log(), preset("din", [f"seed={seed}"])) for seed in (1, 2))
    first.save(tmp_path)
    loaded = Dataset.load(tmp_path)
    second.save(tmp_path)
    assert_same(loaded, first)
    loaded.save(tmp_path)
    assert_same(Dataset.load(tmp_path), first)


def test_tables_of_something_else_are_not_overwritten(tmp_path: Path) -> None:
    mine = pl.DataFrame({"user": [1]})
    mine.write_parquet(tmp_path / "users.parquet")
    with pytest.raises(DataError, match="holds tables that are not a data set's; choose another folder"):
        build(log(), preset("din")).save(tmp_path)
    assert_frame_equal(pl.read_parquet(tmp_path / "users.parquet"), mine)


def test_an_interrupted_save_is_no_data_set_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = build(log(), preset("din"))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):

        def interrupted(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr(np, "save", interrupted)
        dataset.save(tmp_path)
    with pytest.raises(DataError, match=r"dataset.json: format unfinished, .*; build the data set again"):
        Dataset.load(tmp_path)
    dataset.save(tmp_path)
    assert_same(Dataset.load(tmp_path), dataset)


FILES = [
    "users.parquet",
    "items.parquet",
    *(f"timelines.{name}.npy" for name in ("offsets", "entries", "times")),
    *(f"{part}.{name}.npy" for part in PARTS for name in COLUMNS),
    "train.context.parquet",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "other"])
def test_damage_is_named_in_one_line(name: str, damage: str, tmp_path: Path) -> None:
    build(log(context=True), preset("din")).save(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "other": b"x" * 500}[damage])
    with pytest.raises(DataError) as caught:
        Dataset.load(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: incomplete or damaged (")
    assert message.endswith("build the data set again")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "dataset.json: damaged"),
        ("[1]", "dataset.json: damaged"),
        ("{}", "dataset.json: damaged"),
        ('{"format": 99}', "format 99, this prerank reads 1; build the data set again"),
        ('{"format": 1}', "incomplete or damaged"),
        ('{"format": 1, "schema": 3, "protocol": 4, "name": 5, "facts": 6}', "incomplete or damaged"),
    ],
)
def test_a_wrong_manifest_is_named(text: str, message: str, tmp_path: Path) -> None:
    build(log(), preset("din")).save(tmp_path)
    (tmp_path / "dataset.json").write_text(text, "utf-8")
    with pytest.raises(DataError, match=message):
        Dataset.load(tmp_path)


def test_a_folder_without_a_manifest_is_no_data_set(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(
            DataError, match=r"not a built data set \(no dataset.json\); make one with: prerank data build"
        ):
            Dataset.load(path)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=5), st.integers(0, 7), st.data())
def test_windows_are_the_last_ones_before_the_end(timelines: list[list[int]], length: int, data: st.DataObject) -> None:
    offsets = np.cumsum([0, *(len(timeline) for timeline in timelines)])
    entries = np.array([entry for timeline in timelines for entry in timeline], dtype=np.int32)
    made = Timelines(offsets, entries, np.zeros(len(entries), dtype=np.int64))
    rows = data.draw(
        st.lists(
            st.integers(0, len(timelines) - 1).flatmap(
                lambda u: st.tuples(st.just(u), st.integers(0, len(timelines[u])))
            )
        )
    )
    users = np.array([user for user, _ in rows], dtype=np.int32)
    ends = np.array([offsets[user] + seen for user, seen in rows], dtype=np.int64)
    found, lengths = made.windows(users, ends, length)
    windows = [timelines[user][max(0, seen - length) : seen] for user, seen in rows]
    assert lengths.tolist() == [len(window) for window in windows]
    assert found.tolist() == [entry for window in windows for entry in window]
    assert made.owners.tolist() == [user for user, timeline in enumerate(timelines) for _ in timeline]


def test_rows_are_taken_by_place_and_by_mask() -> None:
    rows = build(log(context=True), preset("din")).parts["train"]
    places = np.array([3, 0, 3])
    mask = np.arange(len(rows)) % 3 == 0
    for chosen in (places, mask):
        taken = rows.take(chosen)
        for name in COLUMNS:
            assert np.array_equal(getattr(taken, name), getattr(rows, name)[chosen])
        assert taken.context is not None
        assert rows.context is not None
        assert taken.context["hour"].to_list() == rows.context["hour"].to_numpy()[chosen].tolist()
