"""Means and weighted sums of ragged lists against loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from prerank.batch import History, Ragged
from prerank.layers.blocks import request_blocks
from prerank.layers.pooling import mean_pool, mean_rows, weighted_sum

LISTS = st.lists(st.lists(st.integers(0, 4), max_size=5), max_size=6)


def ragged(lists: list[list[int]]) -> Ragged:
    ends = torch.tensor([0, *(len(one) for one in lists)]).cumsum(0)
    return Ragged(torch.tensor([value for one in lists for value in one], dtype=torch.int64), ends)


def table() -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_mean_pool_by_hand() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]])
    pooled = mean_pool(History(rows, ragged([[0, 1], [], [1, 1, 0, 1]])))
    assert pooled.tolist() == [[2.0, 4.0], [0.0, 0.0], [2.5, 5.0]]


@settings(deadline=None)
@given(LISTS)
def test_mean_rows_equals_the_loop_with_its_gradient(lists: list[list[int]]) -> None:
    rows, twin = table().requires_grad_(), table().requires_grad_()
    means = [twin[one].mean(0) if one else twin.new_zeros(3) for one in lists]
    expected = torch.stack(means) if lists else twin.new_zeros(0, 3)
    out = mean_rows(rows, ragged(lists))
    torch.testing.assert_close(out, expected)
    weights = torch.randn(len(lists), 3, dtype=torch.float64)
    (out * weights).sum().backward()
    (gradient,) = torch.autograd.grad((expected * weights).sum() + 0 * twin.sum(), twin)
    torch.testing.assert_close(rows.grad, gradient)


def test_mean_rows_equals_embedding_bag_on_floats() -> None:
    lists = ragged([[value % 40 for value in range(length)] for length in (30, 0, 7, 50)])
    rows = torch.randn(40, 8, requires_grad=True)
    twin = rows.detach().clone().requires_grad_()
    out = mean_rows(rows, lists)
    expected = F.embedding_bag(lists.values, twin, lists.offsets, mode="mean", include_last_offset=True)
    assert torch.equal(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(rows.grad, twin.grad)


@settings(deadline=None)
@given(LISTS, st.integers(1, 3))
def test_weighted_sum_equals_the_loop(lists: list[list[int]], count: int) -> None:
    steps = ragged(lists)
    past = table()[steps.values]
    weights = torch.randn(count, len(past), dtype=torch.float64)
    blocks = request_blocks(steps, count, 1)
    assert len(blocks) == 1
    out = weighted_sum(past, weights.flatten(), blocks, count)
    for query in range(count):
        start = 0
        for request, one in enumerate(lists):
            pairs = zip(weights[query, start : start + len(one)], past[start : start + len(one)], strict=True)
            expected = sum((weight * e for weight, e in pairs), torch.zeros(3, dtype=torch.float64))
            torch.testing.assert_close(out[query, request], expected)
            start += len(one)


@pytest.mark.parametrize("lists", [[[0, 1, 2], [], [3]], [[4, 4]]])
def test_gradients_equal_finite_differences(lists: list[list[int]]) -> None:
    steps = ragged(lists)
    past = table()[steps.values].requires_grad_()
    weights = torch.randn(2 * len(past), dtype=torch.float64, requires_grad=True)
    blocks = request_blocks(steps, 2, 1)
    assert torch.autograd.gradcheck(lambda e, w: weighted_sum(e, w, blocks, 2), (past, weights))
    assert torch.autograd.gradcheck(lambda rows: mean_rows(rows, steps), (table().requires_grad_(),))
