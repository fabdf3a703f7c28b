"""Interaction units: how a query attends to a behaviour history (FIT sec. 4; DIN)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from prerank.batch import History, Ragged
from prerank.layers import compiled
from prerank.layers.blocks import RequestBlock, add_column_sums, in_parallel, request_blocks
from prerank.layers.dice import DiceLinear
from prerank.layers.embedding import take_rows
from prerank.layers.pooling import weighted_sum


class DINUnit(nn.Module):
    """Attention of queries to a history: a small network on [q, e, q - e, q * e] weighs each behaviour.

    The weights are used as they are, without softmax (FIT eq. 19). The first layer is split algebraically,
    W [q, e, q-e, q*e] = (W1 + W3) q + (W2 - W3) e + W4 (q * e), so that the part of q is computed once for each
    query and the part of e once for each behaviour.

    A network of this form does not see when a behaviour was. Ours may add to the first layer's output a learned
    vector for each place in the history, counted from its end; these start at zero.
    """

    def __init__(self, width: int, hidden: Sequence[int], positions: int = 0) -> None:
        """Build the network.

        Args:
            width: D, of queries and behaviours.
            hidden: widths of the hidden layers, (64, 16) in FIT; the last layer has one output.
            positions: places with a vector of their own, the most recent first (earlier ones share the last); 0 for
                none, as published.
        """
        super().__init__()
        self.first = nn.Linear(4 * width, hidden[0])
        self.positions = nn.Parameter(torch.zeros(positions, hidden[0])) if positions else None
        self.rest = nn.Sequential(*(DiceLinear(inputs, outputs) for inputs, outputs in pairwise((*hidden, 1))))

    def forward(self, queries: Tensor, history: History) -> Tensor:
        """Pool each history once for each query.

        Args:
            queries: (B, C, D).
            history: B histories.

        Returns:
            (B, C, D), zeros where a history is empty; in the parameters' precision, autocast or not.
        """
        weight, rows = self.first.weight, len(history.steps.values) * queries.shape[1]
        with torch.autocast(weight.device.type, enabled=False):
            queries, table = queries.to(weight.dtype), history.table.to(weight.dtype)
            way = self._compiled if compiled.usable(queries, rows) else self._in_blocks
            return way(queries, table, history.steps)

    def _compiled(self, queries: Tensor, table: Tensor, steps: Ragged) -> Tensor:
        from prerank.layers.compiled.interaction import FirstLayer, WeightedSums  # noqa: PLC0415 - imports Numba

        query, step, difference, product = self.first.weight.chunk(4, dim=1)
        of_queries = F.linear(queries, query + difference, self.first.bias)
        places = queries.new_empty(0, len(query)) if self.positions is None else self.positions
        x = FirstLayer.apply(  # type: ignore[no-untyped-call]
            table.contiguous(), queries.contiguous(), of_queries, places, step - difference, product.contiguous(), steps
        )
        sums: Tensor = WeightedSums.apply(  # type: ignore[no-untyped-call]
            table.contiguous(), self.rest(x).flatten(), steps, queries.shape[1]
        )
        return sums

    def _in_blocks(self, queries: Tensor, table: Tensor, steps: Ragged) -> Tensor:
        weight, count = self.first.weight, queries.shape[1]
        queries = queries.transpose(0, 1).contiguous()
        past = take_rows(table, steps.values)
        query, step, difference, product = weight.chunk(4, dim=1)
        of_queries = F.linear(queries, query + difference, self.first.bias)
        of_steps = F.linear(past, step - difference)
        if self.positions is not None:
            of_steps = of_steps + take_rows(self.positions, steps.from_end.clamp(max=len(self.positions) - 1))
        blocks = request_blocks(steps, count, weight.shape[0])
        x = _FirstLayer.apply(past, queries, of_queries, of_steps, product, blocks)  # type: ignore[no-untyped-call]
        weights: Tensor = self.rest(x)
        return weighted_sum(past, weights.flatten(), blocks, count).transpose(0, 1)


class _FirstLayer(torch.autograd.Function):
    """(T * C, hidden): of_queries + of_steps + W_p (q * e) for the T behaviours e and the (C, B, D) queries q.

    The rows are in the order of ``blocks``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        past: Tensor,
        queries: Tensor,
        of_queries: Tensor,
        of_steps: Tensor,
        of_product: Tensor,
        blocks: Sequence[RequestBlock],
    ) -> Tensor:
        ctx.save_for_backward(past, queries, of_product)
        ctx.blocks = blocks
        count, _, hidden = of_queries.shape
        out = past.new_empty(past.shape[0] * count, hidden)

        def fill(blocks: Sequence[RequestBlock]) -> tuple[Tensor, ...]:
            for block in blocks:
                e = past[block.steps]
                x = block.spread(of_queries, out=out[block.rows])
                x.view(count, -1, hidden).add_(of_steps[block.steps])
                pairs = block.spread(queries)
                pairs.view(count, *e.shape).mul_(e)
                torch.addmm(x, pairs, of_product.T, out=x)
            return ()

        in_parallel(blocks, fill)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        past, queries, of_product = ctx.saved_tensors
        grad, count, hidden = grad.contiguous(), len(queries), grad.shape[1]
        d_past, d_queries = past.new_zeros(past.shape), torch.empty_like(queries)
        d_of_queries, d_of_steps = queries.new_empty(*queries.shape[:2], hidden), past.new_zeros(len(past), hidden)

        def differentiate(blocks: Sequence[RequestBlock]) -> tuple[Tensor, ...]:
            d_of_product = torch.zeros_like(of_product)
            for block in blocks:
                e, d_e, d_x = past[block.steps], d_past[block.steps], grad[block.rows]
                d_of_queries[:, block.requests] = block.sums(d_x, count)
                add_column_sums(d_x.view(count, -1), d_of_steps[block.steps].view(-1))
                q = block.spread(queries).view(count, *e.shape)
                pairs = q * e
                d_of_product.addmm_(d_x.T, pairs.flatten(0, 1))
                d_pairs = torch.mm(d_x, of_product, out=pairs.flatten(0, 1)).view_as(q)
                add_column_sums(q.mul_(d_pairs).view(count, -1), d_e.view(-1))
                d_queries[:, block.requests] = block.sums(d_pairs.mul_(e).flatten(0, 1), count)
            return (d_of_product,)

        (d_of_product,) = in_parallel(ctx.blocks, differentiate)
        return d_past, d_queries, d_of_queries, d_of_steps, d_of_product, None
