"""DIN's attention for queries that are fixed: what it says of an item is computed once, not once a request.

The weight that a query gives a behaviour (FIT eq. 19) depends on these two only: not on the user, nor on the rest of
the history. So the N weights of an item are kept from one request to the next, and a history whose items were met
before costs one small product. Of items that are new, all is computed:

    first layer   e -> W_n e + c_n, with W [q, e, q-e, q*e] = (W2 - W3 + W4 diag(q)) e + (W1 + W3) q

A term for the place in the history belongs to no item; with it, nothing is kept.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prerank.layers.dice import DiceLinear
from prerank.layers.interaction import DINUnit
from prerank.publish.item_ids import Ints
from prerank.publish.plan import kernels
from prerank.publish.plan.base import Floats, NoPlanError, Past
from prerank.publish.plan.scoring import array
from prerank.publish.store import ItemStore

CACHED = 1 << 18  # numbers of one block of the attention: a megabyte
KEPT = 1 << 27  # bytes of weights that are kept: with 64 queries, those of half a million items
RUN = 1000  # items that are met together


class FixedAttention:
    """DIN's unit for a fixed group of N queries: the (n, D) pooled interests of those asked for.

    Biases are added by the pass that follows a product anyway.
    """

    def __init__(self, unit: nn.Module, queries: Tensor, items: int) -> None:
        """Take a unit apart.

        Args:
            unit: in evaluation mode.
            queries: (N, D).
            items: how many a history can be made of.

        Raises:
            NoPlanError: it is another unit than DIN's.
        """
        if not isinstance(unit, DINUnit):
            raise NoPlanError(f"{type(unit).__name__} has no folded form")
        query, step, difference, product = unit.first.weight.chunk(4, dim=1)
        self.steps = (step - difference + product * queries.unsqueeze(1)).contiguous()  # (N, hidden, D)
        constants = (queries @ (query + difference).T + unit.first.bias).unsqueeze(0)
        if unit.positions is not None:
            constants = constants + unit.positions.flip(0).unsqueeze(1)
        self.constants = constants.contiguous()  # (places, N, hidden), the most recent place last
        self.layers = [_Dice.of(layer) for layer in unit.rest if isinstance(layer, DiceLinear)]
        last = self.layers[-1]
        self.output = array(last.weight).ravel(), last.bias.ravel()[0]
        self.memory = _Memory()
        self.kept = _Kept(items, len(queries)) if unit.positions is None else None

    def __call__(self, past: Past, chosen: Tensor | None) -> Tensor:
        """The interests of the queries ``chosen``, or of all."""
        if self.kept is None or past.items is None:
            weights = self._weights(past.table, chosen)
        else:
            weights = self._recalled(self.kept, past.table, past.items)
            weights = weights if chosen is None else weights.index_select(1, chosen)
        return weights.T @ past.table

    def prepare(self, store: ItemStore) -> None:
        """Meet all items of a store, or as many as there is room for."""
        if self.kept is None or store.behaviours is None:
            return
        count = min(len(store), len(self.kept.items))
        for start in range(0, count, RUN):
            items = np.arange(start, min(start + RUN, count))
            self._recalled(self.kept, store.remember(items, np.ones(len(items), dtype=np.bool_)), items)

    def _recalled(self, kept: _Kept, table: Tensor, items: Ints) -> Tensor:
        """(L, N): kept weights, and those that are missing computed and kept."""
        weights, known = kept.recall(items)
        if not known.all():
            new = np.flatnonzero(~known)
            weights[new] = self._weights(table[torch.from_numpy(new)], None).numpy()
            kept.keep(items[new], weights[new])
        return torch.from_numpy(weights)

    def _weights(self, table: Tensor, chosen: Tensor | None) -> Tensor:
        """(L, n) attention weights."""
        steps, constants = self.steps, self.constants
        if chosen is not None:
            steps, constants = steps.index_select(0, chosen), constants.index_select(1, chosen)
        (count, hidden, _), length = steps.shape, len(table)
        weights = table.new_empty(length, count)
        size = max(CACHED // max(length * hidden, 1), 1)
        for start in range(0, count, size):
            block = slice(start, min(start + size, count))
            x = self.memory.take("first", length, (block.stop - start) * hidden)
            torch.mm(table, steps[block].flatten(0, 1).T, out=x)
            weights[:, block] = self._rest(x.view(length, block.stop - start, hidden), constants[:, block].numpy())
        return weights

    def _rest(self, x: Tensor, before: Floats) -> Tensor:
        """(L, n) from the (L, n, hidden) products of the first layer, which are overwritten."""
        length, count, _ = x.shape
        for number, layer in enumerate(self.layers[:-1]):
            kernels.dice(x.numpy(), before, layer.slope, layer.shift, layer.alpha)
            rows, x = x.flatten(0, -2), self.memory.take(f"hidden {number}", length * count, layer.weight.shape[1])
            torch.mm(rows, layer.weight, out=x)
            x, before = x.unsqueeze(1), layer.bias
        last, weights = self.layers[-1], self.memory.take("weights", *x.shape[:2])
        kernels.dice_product(x.numpy(), before, last.slope, last.shift, last.alpha, *self.output, weights.numpy())
        return weights.view(length, count)


class _Kept:
    """The weights of items that were met lately. An item has one slot, and loses it to the next one that has it, too.

    All memory is taken at once, so that a process grows no more.
    """

    def __init__(self, items: int, queries: int) -> None:
        slots = min(items + 1, max(KEPT // (4 * queries), 1))
        self.items = np.full(slots, -2, dtype=np.int64)  # -1 stands for all unknown items
        self.weights = np.ones((slots, queries), dtype=np.float32)
        self.turn = threading.Lock()

    def recall(self, items: Ints) -> tuple[Floats, NDArray[np.bool_]]:
        """(L, N) weights, which mean nothing where an item has none yet, and (L,) where it has."""
        slots = items % len(self.items)
        with self.turn:
            return self.weights.take(slots, axis=0), self.items.take(slots) == items

    def keep(self, items: Ints, weights: Floats) -> None:
        """Of items with one slot the last one has it."""
        slots = items % len(self.items)
        with self.turn:
            self.items[slots], self.weights[slots] = items, weights


@dataclass(frozen=True, slots=True)
class _Dice:
    """A DiceLinear: Dice with its BatchNorm as the gate 1 / (1 + 2^(x * slope + shift)), then weight and bias."""

    slope: Floats
    shift: Floats
    alpha: Floats
    weight: Tensor  # (channels, outputs)
    bias: Floats  # (1, 1, outputs)

    @classmethod
    def of(cls, layer: DiceLinear) -> _Dice:
        scale = torch.rsqrt(layer.running_var + layer.eps) / math.log(2)
        shift, linear = scale * layer.running_mean, layer.linear
        weight = linear.weight.detach().T.contiguous()
        return cls(array(-scale), array(shift), array(layer.alpha), weight, array(linear.bias).reshape(1, 1, -1))


class _Memory(threading.local):
    """Working memory that a thread keeps from one request to the next, so that no request waits for fresh pages."""

    def __init__(self) -> None:
        self.held: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Uninitialised float32, valid until the same thread takes the same name again."""
        size = math.prod(shape)
        if name not in self.held or len(self.held[name]) < size:
            self.held[name] = torch.empty(size)
        return self.held[name][:size].view(shape)
