"""DIN's first layer and weighted sum as functions with gradients, from the compiled parts of ``attention``.

Both read behaviours from the (M, D) table and know the order of rows that ``attention`` describes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prerank.batch import Ragged
from prerank.layers.compiled import attention
from prerank.layers.compiled.threads import arrays, per_share, request_shares


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
        attention.first_layers(request_shares(steps), *arrays(table, steps.values, steps.offsets, *given))
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, queries, step, product = ctx.saved_tensors
        steps: Ragged = ctx.steps
        d_queries, d_of_queries = torch.empty_like(queries), queries.new_empty(*queries.shape[:2], len(step))
        given = (queries, product.T.contiguous(), step, product, grad.contiguous())
        edges = request_shares(steps)
        d_table, d_places = per_share(edges, table), per_share(edges, table.new_empty(ctx.places, len(step)))
        d_step, d_product = per_share(edges, step.T), per_share(edges, product.T)
        sums = (d_queries, d_of_queries, d_table, d_places, d_step, d_product)
        attention.first_layers_backward(edges, *arrays(table, steps.values, steps.offsets, *given, *sums))
        of_step, of_product = d_step.sum(0).T, d_product.sum(0).T
        return d_table.sum(0), d_queries, d_of_queries, d_places.sum(0), of_step, of_product, None


class WeightedSums(torch.autograd.Function):
    """(B, C, D): sums of each history's rows of the (M, D) table, times the (T * C,) weights of their rows."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, weights: Tensor, steps: Ragged, count: int) -> Tensor:
        ctx.save_for_backward(table, weights)
        ctx.steps = steps
        out = table.new_empty(len(steps.offsets) - 1, count, table.shape[1])
        attention.all_sums(request_shares(steps), *arrays(table, steps.values, steps.offsets, weights, out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, weights = ctx.saved_tensors
        steps, edges = ctx.steps, request_shares(ctx.steps)
        d_weights, d_table = torch.empty_like(weights), per_share(edges, table)
        given = (table, steps.values, steps.offsets, weights, grad.contiguous(), d_weights, d_table)
        attention.all_sums_backward(edges, *arrays(*given))
        return d_table.sum(0), d_weights, None, None
