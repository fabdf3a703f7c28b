"""Batches against the rows that they are made of, read off one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prerank.batch import Batch, Features, Ragged
from prerank.data.build import build
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset, Loader
from prerank.data.log import PARTS
from prerank.data.protocol import Protocol, preset
from prerank.data.sources.synthetic import checkerboard
from prerank.schema import Field

Request = tuple[Any, ...]


def listed(features: Features) -> list[tuple[Any, ...]]:
    """The rows of a feature table, each a tuple of ids (or of tuples of ids)."""
    columns: list[list[Any]] = []
    for column in features.columns.values():
        if isinstance(column, Ragged):
            ids = column.values.tolist()
            columns.append([tuple(ids[start:stop]) for start, stop in pairwise(column.offsets.tolist())])
        else:
            columns.append(column.tolist())
    return list(zip(*columns, strict=True))


def unpacked(batches: Iterable[Batch]) -> list[Request]:
    """(user, history, candidates, labels) of each request."""
    requests = []
    for batch in batches:
        users, behaviours, items = listed(batch.user), listed(batch.behaviours), listed(batch.items)
        steps, candidates = batch.history.values.tolist(), batch.labels.shape[1]
        for row, (start, stop) in enumerate(pairwise(batch.history.offsets.tolist())):
            history = tuple(behaviours[step] for step in steps[start:stop])
            offered = tuple(items[row * candidates : (row + 1) * candidates])
            requests.append((users[row], history, offered, tuple(batch.labels[row].tolist())))
    return requests


def expected(data: EncodedDataset, part: str) -> list[Request]:
    rows, timelines = data.dataset.parts[part], data.dataset.timelines
    users, items, behaviours = listed(data.users), listed(data.items), listed(data.behaviours)
    hours = rows.context["hour"].to_list() if rows.context is not None else None
    requests = []
    for row in range(len(rows)):
        user, end = int(rows.users[row]), int(rows.ends[row])
        start = max(int(timelines.offsets[user]), end - data.encoder.history)
        history = tuple(behaviours[entry] for entry in timelines.entries[start:end])
        profile = users[user] if hours is None else (*users[user], hours[row] + 1)
        offered = tuple(items[item] for item in rows.items[row])
        requests.append((profile, history, offered, tuple(rows.labels[row].tolist())))
    return requests


@pytest.fixture(scope="module")
def hourly() -> EncodedDataset:
    """Short histories, two negatives, a context field whose id is its value plus one, validation by users."""
    log = checkerboard(users=40, items=60, events_per_user=10, seed=2)
    hours = np.r_[np.arange(200) % 3, np.arange(200) % 3]
    raw = type(log)(
        log.name,
        log.schema.model_copy(update={"context": (Field(name="hour"),)}),
        log.users,
        log.items,
        log.events.with_columns(hour=hours),
    )
    dataset = build(raw, Protocol(negatives=2, history=4, validation_by="users"))
    return EncodedDataset(dataset, Encoder.fit(dataset))


@pytest.mark.parametrize("batch_rows", [2, 7, 64, 10_000])
@pytest.mark.parametrize("part", PARTS)
def test_stored_order_without_a_seed(
    encoded: EncodedDataset, hourly: EncodedDataset, part: str, batch_rows: int
) -> None:
    for data in (encoded, hourly):
        loader = Loader(data, part, batch_rows)
        assert unpacked(loader.batches()) == expected(data, part)
        assert len(list(loader.batches())) == len(loader)


@pytest.mark.parametrize("batch_rows", [2, 50, 10_000])
def test_every_request_once_an_epoch(hourly: EncodedDataset, batch_rows: int) -> None:
    loader = Loader(hourly, "train", batch_rows, seed=3)
    stored = expected(hourly, "train")
    for epoch in range(3):
        drawn = unpacked(loader.batches(epoch))
        assert drawn != stored
        assert Counter(drawn) == Counter(stored)


def test_seed_and_epoch_decide_the_order(encoded: EncodedDataset) -> None:
    def drawn(seed: int, epoch: int) -> list[Request]:
        return unpacked(Loader(encoded, "train", 64, seed=seed).batches(epoch))

    assert drawn(1, 0) == drawn(1, 0)
    assert drawn(1, 0) != drawn(1, 1)
    assert drawn(1, 0) != drawn(2, 0)


@pytest.mark.parametrize("fresh", [False, True])
def test_resuming_at_a_step_equals_skipping(encoded: EncodedDataset, fresh: bool) -> None:
    loader = Loader(encoded, "train", 100, seed=5, fresh_negatives=fresh)
    whole = list(loader.batches(epoch=2))
    for step in (0, 1, len(loader) - 1, len(loader)):
        assert unpacked(loader.batches(epoch=2, start=step)) == unpacked(whole[step:])


def test_no_batch_is_much_smaller_than_the_others(encoded: EncodedDataset) -> None:
    requests = len(encoded.dataset.parts["train"])
    for batch_rows in (2, 14, 96, 2 * requests - 2, 2 * requests, 2 * requests + 2):
        sizes = [len(batch.labels) for batch in Loader(encoded, "train", batch_rows, seed=1).batches()]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= batch_rows // 2
        assert sum(sizes) == requests


def test_a_batch_of_fewer_rows_than_candidates_is_one_request(hourly: EncodedDataset) -> None:
    assert all(len(batch.labels) == 1 for batch in Loader(hourly, "test", 2).batches())


def test_histories_are_free_of_padding(encoded: EncodedDataset) -> None:
    """Lengths are the windows' own, and every behaviour of the table is used."""
    rows, offsets = encoded.dataset.parts["train"], encoded.dataset.timelines.offsets
    loader = Loader(encoded, "train", 64)
    lengths = torch.cat([batch.history.lengths for batch in loader.batches()])
    assert lengths.tolist() == (rows.ends - offsets[rows.users]).tolist()
    for batch in loader.batches():
        assert batch.history.values.unique().tolist() == list(range(batch.behaviours.rows))
        assert batch.history.offsets[-1] == len(batch.history.values)


def test_shapes_and_types(hourly: EncodedDataset) -> None:
    batch = next(iter(Loader(hourly, "train", 30, seed=1).batches()))
    assert batch.labels.dtype == torch.float32
    requests = len(batch.labels)
    assert 1 < requests <= 10
    assert batch.labels.tolist() == [[1, 0, 0]] * requests
    assert (batch.user.rows, batch.items.rows) == (requests, 3 * requests)
    hour = batch.user.columns["hour"]
    assert isinstance(hour, Tensor)
    assert hour.dtype == batch.history.values.dtype == torch.int64


def test_fresh_negatives_are_unseen_new_each_epoch_and_fixed_by_the_seed(hourly: EncodedDataset) -> None:
    dataset = hourly.dataset
    touched = set(zip(dataset.timelines.owners.tolist(), dataset.timelines.entries.tolist(), strict=True))
    names = listed(hourly.items)
    users = {profile: number for number, profile in enumerate(listed(hourly.users))}
    number_of = {name: number for number, name in enumerate(names) if names.count(name) == 1}

    def drawn(seed: int, epoch: int) -> list[Request]:
        return unpacked(Loader(hourly, "train", 64, seed, fresh_negatives=True).batches(epoch))

    first = drawn(1, 0)
    assert first == drawn(1, 0)
    fixed = Counter((user, history, items[0]) for user, history, items, _ in expected(hourly, "train"))
    for epoch in range(2):
        assert Counter((user, history, items[0]) for user, history, items, _ in drawn(1, epoch)) == fixed
        for user, _, items, labels in drawn(1, epoch):
            assert labels == (1, 0, 0)
            for item in items[1:]:
                assert item not in number_of or (users[user[:-1]], number_of[item]) not in touched
    negatives = [Counter((user, items[1:]) for user, _, items, _ in drawn(1, epoch)) for epoch in range(2)]
    assert negatives[0] != negatives[1]
    assert Counter((user, items[1:]) for user, _, items, _ in drawn(2, 0)) != negatives[0]
    stored = Counter((user, items[1:]) for user, _, items, _ in expected(hourly, "train"))
    assert negatives[0] != stored


def test_fresh_negatives_leave_the_stored_ones_alone() -> None:
    dataset = build(checkerboard(users=20, items=40, events_per_user=5), preset("din"))
    data = EncodedDataset(dataset, Encoder.fit(dataset))
    before = dataset.parts["train"].items.copy()
    list(Loader(data, "train", 16, seed=1, fresh_negatives=True).batches())
    assert (dataset.parts["train"].items == before).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_so_many_negatives_beside_the_stored_ones(hourly: EncodedDataset, count: int) -> None:
    """Stored ones first, then unseen ones that stay the same in every epoch; the requests are those of the data set."""

    def drawn(seed: int, epoch: int) -> list[Request]:
        return unpacked(Loader(hourly, "train", 60, seed, negatives=count).batches(epoch))

    first = drawn(1, 0)
    assert Counter(first) == Counter(drawn(1, 1))
    assert (Counter(first) == Counter(drawn(2, 0))) == (count <= 2)
    kept = min(count, 2)
    assert Counter((user, history, items[: 1 + kept]) for user, history, items, _ in first) == Counter(
        (user, history, items[: 1 + kept]) for user, history, items, _ in expected(hourly, "train")
    )
    assert {labels for *_, labels in first} == {(1, *[0] * count)}
    touched = {(user[0], items[0]) for part in PARTS for user, _, items, _ in expected(hourly, part)}
    assert all((user[0], item) not in touched for user, _, items, _ in first for item in items[1:])
    loader = Loader(hourly, "train", 60, 1, negatives=count)
    assert len(list(loader.batches())) == len(loader) == -(-len(hourly.dataset.parts["train"]) // (60 // (1 + count)))


def test_so_many_fresh_negatives(hourly: EncodedDataset) -> None:
    epochs = [unpacked(Loader(hourly, "train", 60, 1, True, 4).batches(epoch)) for epoch in range(2)]
    negatives = [Counter((user, items[1:]) for user, _, items, _ in epoch) for epoch in epochs]
    assert negatives[0] != negatives[1]
    assert {len(items) for epoch in epochs for _, _, items, _ in epoch} == {5}
