"""A GRU over ragged histories, whose update gate an attention may weigh (DIEN's AUGRU)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from prerank.layers.packing import Packing

Update = Literal["paper", "code"]


class GRU(nn.Module):
    """h' = h + g * (c - h), with the gates of a GRU and g made of the update gate u and the attention a (DIEN).

    u and the reset gate r are sigmoids of x and h; c = tanh(W x + b + r * (U h + d)). u is the weight of the
    candidate c. ``paper``: g = a * u, so that a = 0 leaves the state as it was. ``code``, the official
    implementation, scales the weight of the old state by 1 - a instead: g = 1 - (1 - a) * (1 - u), so that a = 0 is an
    ordinary step and a = 1 overwrites the state. Without attention g = u, the ordinary GRU.
    """

    def __init__(self, inputs: int, width: int, update: Update = "paper") -> None:
        super().__init__()
        self.input = nn.Linear(inputs, 3 * width)
        self.state = nn.Linear(width, 3 * width)
        self.update: Update = update

    def forward(self, x: Tensor, packing: Packing, attention: Tensor | None = None) -> Tensor:
        """Every state of B histories, which start at zero.

        Args:
            x: (T, inputs) the steps, packed.
            packing: of the histories.
            attention: (T, C) the weight of each step for each of C queries; None is one query without weights.

        Returns:
            (T, C, width), packed. The part of x in the gates is computed once for all queries.
        """
        gates = F.linear(x, self.input.weight, self.input.bias)
        state, code = self.state, self.update == "code"
        states: Tensor = _States.apply(gates, attention, state.weight, state.bias, packing.sizes, code)  # type: ignore[no-untyped-call]
        return states


class _States(torch.autograd.Function):
    """The recurrence and its gradient, step by step; gates are computed again in the backward pass, not kept."""

    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        attention: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        sizes: list[int],
        code: bool,
    ) -> Tensor:
        width, count = weight.shape[1], 1 if attention is None else attention.shape[1]
        states = gates.new_empty(len(gates), count, width)
        for now, earlier in _runs(sizes):
            old = states[earlier] if earlier is not None else gates.new_zeros(sizes[0], count, width)
            _, update, candidate, _ = _gates(gates[now], old, weight, bias)
            share = update if attention is None else _share(attention[now].unsqueeze(2), update, code)
            torch.lerp(old, candidate, share, out=states[now])
        ctx.save_for_backward(gates, attention, weight, bias, states)
        ctx.sizes, ctx.code = sizes, code
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gates, attention, weight, bias, states = ctx.saved_tensors
        d_states, d_gates = grad.clone(memory_format=torch.contiguous_format), torch.empty_like(gates)
        d_attention = None if attention is None else torch.empty_like(attention)
        d_weight, d_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for now, earlier in reversed(list(_runs(ctx.sizes))):
            old = states[earlier] if earlier is not None else torch.zeros_like(states[now])
            reset, update, candidate, inner = _gates(gates[now], old, weight, bias)
            d_new, d_update = d_states[now], None
            d_share = d_new * (candidate - old)
            if attention is None or d_attention is None:
                share, d_update = update, d_share
            else:
                a = attention[now].unsqueeze(2)
                share = _share(a, update, ctx.code)
                torch.sum(d_share * (1 - update if ctx.code else update), 2, out=d_attention[now])
                d_update = d_share.mul_(1 - a if ctx.code else a)
            d_candidate = d_new * share * (1 - candidate.square())
            d_inner = d_candidate * reset
            d_reset = d_candidate * inner * reset * (1 - reset)
            d_update = d_update * update * (1 - update)
            of_state = torch.cat([d_reset, d_update, d_inner], dim=2)
            of_input = torch.cat([d_reset, d_update, d_candidate], dim=2)
            torch.sum(of_input, 1, out=d_gates[now])
            flat = of_state.flatten(0, 1)
            d_bias += flat.sum(0)
            if earlier is not None:
                d_weight.addmm_(flat.T, old.flatten(0, 1))
                d_old = d_states[earlier]
                d_old.addcmul_(d_new, 1 - share)
                d_old.flatten(0, 1).addmm_(flat, weight)
        return d_gates, d_attention, d_weight, d_bias, None, None


def _runs(sizes: list[int]) -> Iterator[tuple[slice, slice | None]]:
    """For each step: its packed rows, and those of the same histories one step before."""
    start, before = 0, None
    for size in sizes:
        earlier = None if before is None else slice(before, before + size)
        yield slice(start, start + size), earlier
        before, start = start, start + size


def _gates(x: Tensor, old: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reset gate, update gate, candidate and the inner part U h + d of it: four (n, C, width).

    Args:
        x: (n, 3 * width) the part of the input.
        old: (n, C, width) the states before.
        weight: (3 * width, width).
        bias: (3 * width,).
    """
    width = weight.shape[1]
    of_state = torch.addmm(bias, old.flatten(0, 1), weight.T).view(*old.shape[:2], 3 * width)
    of_input = x.unsqueeze(1)
    reset, update = (of_state[..., : 2 * width] + of_input[..., : 2 * width]).sigmoid_().chunk(2, dim=2)
    inner = of_state[..., 2 * width :]
    candidate = torch.addcmul(of_input[..., 2 * width :], reset, inner).tanh_()
    return reset, update, candidate, inner


def _share(attention: Tensor, update: Tensor, code: bool) -> Tensor:
    """The candidate's weight."""
    return torch.lerp(update, torch.ones_like(update), attention) if code else attention * update
