"""The weighted mean against a loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prerank.batch import History, Ragged
from prerank.layers.pooling import mean_pool
from prerank.layers.recency import RecencyPool

LISTS = st.lists(st.lists(st.integers(0, 4), max_size=5), min_size=1, max_size=6)


def history(lists: list[list[int]]) -> History:
    """Lists of rows of a table of five behaviours."""
    ends = torch.tensor([0, *(len(one) for one in lists)]).cumsum(0)
    values = torch.tensor([value for one in lists for value in one], dtype=torch.int64)
    table = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return History(table, Ragged(values, ends))


def pool(positions: int = 5) -> RecencyPool:
    """A pool that has learned something."""
    torch.manual_seed(3)
    made = RecencyPool(positions).double()
    nn.init.normal_(made.logits)
    return made


def test_by_hand() -> None:
    """Weights 3 : 1 for the last and the one before; a lone behaviour has all the weight."""
    made = RecencyPool(2)
    with torch.no_grad():
        made.logits.copy_(torch.tensor([3.0, 1.0]).log())
    table = torch.tensor([[4.0], [8.0]])
    steps = Ragged(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 2, 3, 3, 4]))
    torch.testing.assert_close(made(History(table, steps)), torch.tensor([[7.0], [8.0], [0.0], [4.0]]))


@settings(deadline=None)
@given(LISTS)
def test_equals_the_softmax_of_each_history(lists: list[list[int]]) -> None:
    made, past = pool(), history(lists)
    for one, result in zip(lists, made(past), strict=True):
        weights = made.logits[: len(one)].flip(0).softmax(0)
        torch.testing.assert_close(result, weights @ past.table[one])


@settings(deadline=None)
@given(LISTS)
def test_starts_as_the_mean(lists: list[list[int]]) -> None:
    past = history(lists)
    torch.testing.assert_close(RecencyPool(5).double()(past), mean_pool(past))


@pytest.mark.parametrize("positions", [2, 5])
def test_gradients_equal_finite_differences(positions: int) -> None:
    """Also for histories that are longer than the positions."""
    made, past = pool(positions), history([[0, 1, 2], [], [3], [4, 4, 1, 0, 2]])

    def function(table: Tensor, logits: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(made, {"logits": logits}, (History(table, past.steps),))
        return out

    assert torch.autograd.gradcheck(function, (past.table.requires_grad_(), made.logits))
