"""Counted pair features against loops over plain lists, and the columns that come with events."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prerank.batch import Ragged
from prerank.data.build import build
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset, Loader
from prerank.data.log import PARTS, Dataset, RawLog
from prerank.data.matches import count_matches
from prerank.data.numbers import Scale
from prerank.data.protocol import Protocol, preset
from prerank.data.sources.synthetic import checkerboard
from prerank.errors import DataError, RequestError
from prerank.schema import PairField, Schema


def ragged(rows: list[list[int]]) -> Ragged:
    lengths = torch.tensor([0, *(len(row) for row in rows)])
    return Ragged(torch.tensor([value for row in rows for value in row], dtype=torch.int64), lengths.cumsum(0))


def column(rows: list[list[int]], multi: bool) -> Tensor | Ragged:
    return ragged(rows) if multi else torch.tensor([row[0] for row in rows], dtype=torch.int64)


ids = st.lists(st.integers(0, 4), min_size=1, max_size=3)


@settings(deadline=None)
@given(st.lists(ids, min_size=1, max_size=6), st.integers(1, 3), st.booleans(), st.booleans(), st.data())
def test_counting_is_the_loop(
    past: list[list[int]], each: int, many_past: bool, many_items: bool, data: st.DataObject
) -> None:
    steps = data.draw(st.lists(st.lists(st.integers(0, len(past) - 1), max_size=5), max_size=4))
    items = data.draw(st.lists(ids, min_size=each * len(steps), max_size=each * len(steps)))
    seen = past if many_past else [row[:1] for row in past]
    offered = items if many_items else [row[:1] for row in items]
    expected = [
        sum(bool(set(seen[step]) & set(offered[request * each + place]) - {0}) for step in steps[request])
        for request in range(len(steps))
        for place in range(each)
    ]
    counted = count_matches(column(past, many_past), ragged(steps), column(items, many_items))
    assert counted.tolist() == expected


def test_counts_by_hand() -> None:
    """Two requests, three candidates each; the second value of the first behaviour is unknown, as is the last item."""
    past = ragged([[1, 0], [1, 2], [3]])
    steps = ragged([[0, 1, 1, 2], []])
    items = ragged([[1, 2], [3], [0], [1], [2], []])
    assert count_matches(past, steps, items).tolist() == [3, 1, 0, 0, 0, 0]


def crossed(**changes: Any) -> Dataset:
    """A checkerboard whose schema counts items and categories that recur; groups repeat, items never do."""
    raw = checkerboard(users=40, items=60, events_per_user=10, seed=2)
    pair = ({"name": "same_item", "match": "item_id"}, {"name": "same_category", "match": "category", **changes})
    schema = raw.schema.model_copy(update={"pair": tuple(PairField.model_validate(field) for field in pair)})
    return build(replace(raw, schema=schema), preset("din", ["history=4", "negatives=2"]))


@pytest.mark.parametrize("part", PARTS)
def test_batches_count_over_the_visible_window(part: str) -> None:
    """The last four behaviours before the event, with fresh negatives, against a loop over the raw tables."""
    dataset = crossed(numeric="scale")
    loader = Loader(EncodedDataset(dataset, Encoder.fit(dataset)), part, 30, seed=4, fresh_negatives=part == "train")
    encoder = loader.data.encoder
    categories = dict(enumerate(encoder.coders["item.category"].values, start=1))  # type: ignore[union-attr]
    coder = encoder.coders["pair.same_category"]
    assert isinstance(coder, Scale)
    for batch in loader.batches(epoch=1):
        assert batch.pairs is not None and batch.pairs.rows == batch.items.rows
        past, offered = batch.behaviours.columns["category"], batch.items.columns["category"]
        assert isinstance(past, Tensor) and isinstance(offered, Tensor)
        expected = []
        bounds = batch.history.offsets.tolist()
        for request, (start, stop) in enumerate(pairwise(bounds)):
            assert stop - start <= 4
            seen = [categories[int(past[step])] for step in batch.history.values[start:stop]]
            for item in offered[request * 3 : request * 3 + 3].tolist():
                expected.append(float(seen.count(categories[item])))
        counted = batch.pairs.columns["same_category"]
        assert isinstance(counted, Tensor)
        assert counted.tolist() == coder.encode(np.array(expected)).tolist()
        same = batch.pairs.columns["same_item"]
        assert isinstance(same, Tensor) and len(same.unique()) == 1  # nobody takes an item twice


def test_counted_features_are_fitted_on_training_rows_and_saved() -> None:
    encoder = Encoder.fit(crossed(numeric="scale"))
    table, numbers = encoder.state()
    assert set(numbers) == {"pair.same_item", "pair.same_category"}
    assert numbers["pair.same_category"][2:] == [0, 4]
    again = Encoder.restore(encoder.schema, 4, table, numbers)
    assert again.state()[1] == numbers and again.inputs == encoder.inputs
    assert list(encoder.inputs.pair) == ["same_item", "same_category"]


def given_log(**changes: Any) -> RawLog:
    """Impressions with two columns that belong to user and item together: x is the event's number, words are lists."""
    rng = np.random.default_rng(1)
    count = 200
    schema = {
        "user_id": "user",
        "item_id": "item",
        "user": ["user"],
        "item": ["item"],
        "history": ["item"],
        "pair": [{"name": "x", "kind": "numeric", "numeric": "scale"}, {"name": "words", "kind": "multi"}],
    }
    events = {
        "user": rng.integers(9, size=count),
        "item": rng.integers(20, size=count),
        "time": rng.permutation(count),
        "label": rng.integers(2, size=count),
        "rating": rng.integers(1, 6, size=count).astype(float),
    }
    words = pl.Series("words", [["a", "b"][: number % 3] for number in range(count)], dtype=pl.List(pl.String))
    table = pl.DataFrame(events).with_columns(words, x=pl.col("time") * 1.0)
    return RawLog(
        "given",
        Schema.model_validate({**schema, **changes}),
        pl.DataFrame({"user": np.arange(9)}),
        pl.DataFrame({"item": np.arange(20)}),
        table,
    )


@pytest.mark.parametrize("labels", ["given", "rating"])
def test_given_columns_stay_with_their_events(labels: Any, tmp_path: Path) -> None:
    """x is the event's time, so every row can be checked, also after saving, loading and shuffling."""
    build(given_log(), Protocol(labels=labels, test="time", test_size=50)).save(tmp_path)
    dataset = Dataset.load(tmp_path)
    encoder = Encoder.fit(dataset)
    mean, deviation, *_ = encoder.state()[1]["pair.x"]
    data = EncodedDataset(dataset, encoder)
    for part, rows in dataset.parts.items():
        assert rows.pairs is not None
        assert rows.pairs["x"].to_list() == rows.times.tolist()
        times: list[float] = []
        for batch in Loader(data, part, 16, seed=3).batches():
            assert batch.pairs is not None and isinstance(batch.pairs.columns["words"], Ragged)
            x = batch.pairs.columns["x"]
            assert isinstance(x, Tensor)
            times += (x.double() * deviation + mean).round().tolist()
        if part == "train":  # beyond it numbers are cut off
            assert sorted(times) == sorted(rows.times.tolist())
    assert data.unknown()["test"]["pair"] == {"x": 0.0, "words": 0.0}


def test_sampled_negatives_have_no_given_columns() -> None:
    with pytest.raises(DataError, match="pair field 'x' has values for the events only and sampled negatives have"):
        build(given_log(), preset("din"))
    with pytest.raises(DataError, match="column 'y' is missing"):
        build(given_log(pair=["y"]), Protocol(labels="given"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"y": [1, 2]}, "pairs.y: unknown field; fields: words, x"),
        ({"x": [1, "far"]}, "pair.x: expected a number, got 'far'"),
        ({"words": [["a"], "b"]}, "pair.words: expected a list of values, got 'b'"),
        ({"n": [1, 2]}, "pairs.n: is counted from the history, it is not given"),
    ],
)
def test_wrong_pairs_are_named(columns: dict[str, Any], message: str) -> None:
    fields = [*given_log().schema.given_pairs, {"name": "n", "match": "item"}]
    encoder = Encoder.fit(build(given_log(pair=fields), Protocol(labels="given")))
    with pytest.raises(RequestError, match=message):
        encoder.encode_pairs(columns, 2)
    missing = encoder.encode_pairs({}, 2).columns
    assert isinstance(missing["x"], Tensor) and missing["x"].isnan().all()
