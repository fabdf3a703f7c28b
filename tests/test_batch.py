"""Ragged lists and feature tables against plain Python lists."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prerank.batch import Batch, Features, Ragged

lists = st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=6)


def ragged(rows: list[list[int]]) -> Ragged:
    lengths = torch.tensor([0, *(len(row) for row in rows)])
    return Ragged(torch.tensor([value for row in rows for value in row], dtype=torch.int64), lengths.cumsum(0))


def plain(values: Ragged) -> list[list[int]]:
    return [values.values[a:b].tolist() for a, b in zip(values.offsets[:-1], values.offsets[1:], strict=True)]


@settings(deadline=None)
@given(lists)
def test_ragged_lists_keep_lengths_and_owners(rows: list[list[int]]) -> None:
    made = ragged(rows)
    assert plain(made) == rows
    assert made.lengths.tolist() == [len(row) for row in rows]
    assert made.from_end.tolist() == [place for row in rows for place in reversed(range(len(row)))]
    assert made.owners.tolist() == [number for number, row in enumerate(rows) for _ in row]


@settings(deadline=None)
@given(lists.filter(bool), st.data())
def test_taking_rows_with_repetition(rows: list[list[int]], data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    taken = ragged(rows).take(torch.tensor(places, dtype=torch.int64))
    assert plain(taken) == [rows[place] for place in places]


def test_features_take_join_and_map() -> None:
    table = Features({"city": torch.tensor([4, 5, 6]), "genres": ragged([[1], [], [2, 3]])}, 3)
    taken = table.take(torch.tensor([2, 0, 2]))
    genres = taken.columns["genres"]
    assert isinstance(genres, Ragged)
    assert taken.rows == 3
    assert taken.columns["city"].tolist() == [6, 4, 6]  # type: ignore[union-attr]
    assert plain(genres) == [[2, 3], [1], [2, 3]]

    hour = Features({"hour": torch.tensor([7, 8, 9])}, 3)
    assert set(table.beside(hour).columns) == {"city", "genres", "hour"}
    assert table.beside(None) is table
    doubled = hour.map(lambda tensor: tensor * 2)
    assert doubled.columns["hour"].tolist() == [14, 16, 18]  # type: ignore[union-attr]


def test_a_batch_moves_as_a_whole() -> None:
    item = Features({"genres": ragged([[1], [2, 3]])}, 2)
    user = Features({"city": torch.tensor([4])}, 1)
    batch = Batch(user, item, ragged([[0, 1, 1]]), item, torch.tensor([[1.0, 0.0]]))
    moved = batch.to(torch.device("meta"))
    genres, city = moved.items.columns["genres"], moved.user.columns["city"]
    assert isinstance(genres, Ragged)
    assert isinstance(city, torch.Tensor)
    tensors = (genres.values, genres.offsets, city, moved.history.values, moved.history.offsets, moved.labels)
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert moved.labels.shape == (1, 2)
