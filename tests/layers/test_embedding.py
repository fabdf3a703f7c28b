"""Embedding tables: order of fields, multi-valued means, the out-of-vocabulary row, gradients."""

from __future__ import annotations

import pytest
import torch

from prerank.batch import Features, Ragged
from prerank.layers.embedding import FieldEmbeddings, take_rows

FEATURES = Features(
    {
        "city": torch.tensor([2, 0, 1]),
        "genres": Ragged(torch.tensor([1, 3, 3]), torch.tensor([0, 2, 2, 3])),
        "unread": torch.tensor([9, 9, 9]),
    },
    rows=3,
)


def embeddings() -> FieldEmbeddings:
    """Two fields of width 2 whose rows are (10 * id, id) and (100 * id, id)."""
    made = FieldEmbeddings({"genres": 4, "city": 3}, width=2, std=1.0)
    with torch.no_grad():
        made.tables[0].copy_(torch.tensor([[100.0, 1.0]]) * torch.arange(4).unsqueeze(1))
        made.tables[1].copy_(torch.tensor([[10.0, 1.0]]) * torch.arange(3).unsqueeze(1))
    return made


def test_fields_are_concatenated_in_their_declared_order() -> None:
    out = embeddings()(FEATURES)
    assert out.tolist() == [[200.0, 2.0, 20.0, 2.0], [0.0, 0.0, 0.0, 0.0], [300.0, 3.0, 10.0, 1.0]]


def test_named_fields_are_concatenated_in_the_order_named() -> None:
    made = embeddings()
    assert made(FEATURES, ["city"]).tolist() == [[20.0, 2.0], [0.0, 0.0], [10.0, 1.0]]
    both = made(FEATURES, ("city", "genres"))
    assert both[0].tolist() == [20.0, 2.0, 200.0, 2.0]


def test_start() -> None:
    torch.manual_seed(0)
    made = FieldEmbeddings({"a": 2001, "b": 5}, width=16, std=0.01)
    assert [tuple(table.shape) for table in made.tables] == [(2001, 16), (5, 16)]
    assert not any(table[0].any() for table in made.tables)
    assert made.tables[0][1:].std().item() == pytest.approx(0.01, rel=0.02)
    assert made.tables[0][1:].mean().item() == pytest.approx(0.0, abs=0.0005)


def test_gradients_reach_the_rows_that_were_read() -> None:
    made = embeddings()
    made(FEATURES).sum().backward()
    genres, city = (table.grad for table in made.tables)
    assert genres is not None and city is not None
    assert genres.tolist() == [[0.0, 0.0], [0.5, 0.5], [0.0, 0.0], [1.5, 1.5]]
    assert city.tolist() == [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]


def test_take_rows_is_indexing_with_its_gradient() -> None:
    table = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([5, 0, 5, 5, 2])
    assert torch.equal(take_rows(table, rows), table[rows])
    assert torch.autograd.gradcheck(lambda t: take_rows(t, rows), (table,))
    assert take_rows(table, rows[:0]).shape == (0, 3)


def test_take_rows_gradient_on_many_rows() -> None:
    table = torch.zeros(50, 4, requires_grad=True)
    rows = torch.randint(0, 50, (5000,))
    weights = torch.randn(5000, 4)
    (take_rows(table, rows) * weights).sum().backward()
    torch.testing.assert_close(table.grad, torch.zeros(50, 4).index_add_(0, rows, weights), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("row", [-1, 3])
def test_rows_outside_the_table_are_refused(row: int) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        take_rows(torch.zeros(3, 2), torch.tensor([row]))
