"""DIN's first layer and weighted sum as functions with gradients, from the compiled parts of ``attention``.

Both read behaviours from the (M, D) table and know the order of rows that ``attention`` describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prerank.batch import Ragged
from prerank.layers.blocks import in_parallel
from prerank.layers.compiled import attention


class FirstLayer(torch.autograd.Function):
    """(T * C, W) from (M, D) table, (B, C, D) queries and their (B, C, W) terms, (P, W) places, two (W, D) matrices."""

    @staticmethod
    def forward(
        ctx: Any, table: Tensor, queries: Tensor, of_queries: Tensor, places: Tensor, step: Tensor, product: Tensor,
        steps: Ragged,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(table, queries, step, product)
        ctx.steps, ctx.places = steps, len(places)
        x = table.new_empty(len(steps.values) * queries.shape[1], len(step))
        given = (queries, of_queries, places, step.T.contiguous(), product.T.contiguous(), x)
        arrays = [*_lists(table, steps), *(each.numpy() for each in given)]

        def fill(requests: Sequence[slice]) -> tuple[Tensor, ...]:
            for some in requests:
                attention.first_layer(some.start, some.stop, *arrays)
            return ()

        in_parallel(request_shares(steps), fill)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, queries, step, product = ctx.saved_tensors
        steps: Ragged = ctx.steps
        d_queries, d_of_queries = torch.empty_like(queries), queries.new_empty(*queries.shape[:2], len(step))
        given = (queries, product.T.contiguous(), step, product, grad.contiguous())
        arrays = [*_lists(table, steps), *(each.numpy() for each in given)]

        def differentiate(requests: Sequence[slice]) -> tuple[Tensor, ...]:
            d_table, d_places = torch.zeros_like(table), table.new_zeros(ctx.places, len(step))
            d_matrices = table.new_zeros(2, table.shape[1], len(step))
            sums = (d_table, d_queries, d_of_queries, d_places, *d_matrices)
            for some in requests:
                attention.first_layer_backward(some.start, some.stop, *arrays, *(each.numpy() for each in sums))
            return d_table, d_places, d_matrices

        d_table, d_places, (d_step, d_product) = in_parallel(request_shares(steps), differentiate)
        return d_table, d_queries, d_of_queries, d_places, d_step.T, d_product.T, None


class WeightedSums(torch.autograd.Function):
    """(B, C, D): sums of each history's rows of the (M, D) table, times the (T * C,) weights of their rows."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, weights: Tensor, steps: Ragged, count: int) -> Tensor:
        ctx.save_for_backward(table, weights)
        ctx.steps = steps
        out = table.new_empty(len(steps.offsets) - 1, count, table.shape[1])
        arrays = [*_lists(table, steps), weights.numpy(), out.numpy()]

        def fill(requests: Sequence[slice]) -> tuple[Tensor, ...]:
            for some in requests:
                attention.weighted_sums(some.start, some.stop, *arrays)
            return ()

        in_parallel(request_shares(steps), fill)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, weights = ctx.saved_tensors
        d_weights = torch.empty_like(weights)
        given = (weights, grad.contiguous(), d_weights)
        arrays = [*_lists(table, ctx.steps), *(each.numpy() for each in given)]

        def differentiate(requests: Sequence[slice]) -> tuple[Tensor, ...]:
            d_table = torch.zeros_like(table)
            for some in requests:
                attention.weighted_sums_backward(some.start, some.stop, *[*arrays, d_table.numpy()])
            return (d_table,)

        (d_table,) = in_parallel(request_shares(ctx.steps), differentiate)
        return d_table, d_weights, None, None


def request_shares(steps: Ragged) -> list[slice]:
    """Requests cut into runs with about as many behaviours, one for each thread."""
    threads, requests = torch.get_num_threads(), len(steps.offsets) - 1
    wanted = torch.arange(1, threads) * (len(steps.values) / threads)
    edges = [0, *torch.searchsorted(steps.offsets, wanted.long()).clamp(max=requests).tolist(), requests]
    return [slice(edges[n], edges[n + 1]) for n in range(threads)]


def _lists(table: Tensor, steps: Ragged) -> tuple[Any, ...]:
    return table.numpy(), steps.values.numpy(), steps.offsets.numpy()
