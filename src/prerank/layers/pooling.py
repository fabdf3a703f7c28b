"""Sums over ragged lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from prerank.batch import History, Ragged
from prerank.layers.blocks import RequestBlock, add_column_sums, in_parallel


def mean_pool(history: History) -> Tensor:
    """(B, D) the mean of each history's embeddings; zeros where a history is empty."""
    return mean_rows(history.table, history.steps)


def mean_rows(table: Tensor, lists: Ragged) -> Tensor:
    """(R, D) the mean of the (M, D) table's rows that each of R lists names; zeros for an empty list."""
    if not torch.is_grad_enabled():
        return _means(table, lists)
    mean: Tensor = _MeanRows.apply(table, lists)  # type: ignore[no-untyped-call]
    return mean


def _means(table: Tensor, lists: Ragged) -> Tensor:
    return F.embedding_bag(lists.values, table, lists.offsets, mode="mean", include_last_offset=True)


def weighted_sum(past: Tensor, weights: Tensor, blocks: Sequence[RequestBlock], count: int) -> Tensor:
    """Weighted sums of each history, one for each of C sets of weights (FIT eq. 19).

    Args:
        past: (T, D) the histories' behaviours.
        weights: (T * C,) in the order of ``blocks``.
        blocks: the B histories.
        count: C.

    Returns:
        (C, B, D); zeros where a history is empty.
    """
    sums: Tensor = _WeightedSum.apply(past, weights, blocks, count)  # type: ignore[no-untyped-call]
    return sums


class _MeanRows(torch.autograd.Function):
    """F.embedding_bag with a gradient that does not sort row by row."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, lists: Ragged) -> Tensor:
        ctx.rows, ctx.lists = table.shape[0], lists
        return _means(table, lists)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        lists: Ragged = ctx.lists
        share = grad / lists.lengths.clamp(min=1).unsqueeze(1)
        of_values = share.index_select(0, lists.owners)
        places = lists.values.unsqueeze(1).expand_as(of_values)
        return grad.new_zeros(ctx.rows, grad.shape[1]).scatter_add_(0, places, of_values), None


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, past: Tensor, weights: Tensor, blocks: Sequence[RequestBlock], count: int) -> Tensor:
        ctx.save_for_backward(past, weights)
        ctx.blocks = blocks
        sums = past.new_empty(count, blocks[-1].requests.stop, past.shape[1])

        def fill(blocks: Sequence[RequestBlock]) -> tuple[Tensor, ...]:
            for block in blocks:
                e, w = past[block.steps], weights[block.rows]
                if sums.shape[1] == 1:  # serving: a plain product, however many queries there are
                    torch.mm(w.view(count, -1), e, out=sums[:, 0])
                    continue
                every = torch.arange(e.shape[0], device=e.device).repeat(count)
                summed = F.embedding_bag(every, e, block.starts, mode="sum", per_sample_weights=w)
                sums[:, block.requests] = summed.view(count, -1, e.shape[1])
            return ()

        in_parallel(blocks, fill)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        past, weights = ctx.saved_tensors
        grad, count = grad.contiguous(), len(grad)
        d_past, d_weights = past.new_zeros(past.shape), torch.empty_like(weights)

        def differentiate(blocks: Sequence[RequestBlock]) -> tuple[Tensor, ...]:
            for block in blocks:
                e = past[block.steps]
                d_sums = block.spread(grad)
                products = d_sums.view(count, *e.shape) * e
                torch.sum(products.flatten(0, 1), 1, out=d_weights[block.rows])
                d_sums *= weights[block.rows].unsqueeze(1)
                add_column_sums(d_sums.view(count, -1), d_past[block.steps].view(-1))
            return ()

        in_parallel(ctx.blocks, differentiate)
        return d_past, d_weights, None, None
