"""FIT in serving (sec. 4.3.2): all that depends on the meta queries alone is computed once.

What a request leaves to do, for N queries and L past behaviours:

    attention, first layer   e -> W_n e + c_n, with W [q, e, q-e, q*e] = (W2 - W3 + W4 diag(q)) e + (W1 + W3) q
    user tower, first layer  the share of q and the bias are a constant of each query, the user fields' share is
                             computed once, which leaves the pooled interest

both exactly the model's values, up to rounding. BatchNorm is folded everywhere, the one inside Dice included.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prerank.batch import Features
from prerank.layers.dice import DiceLinear
from prerank.layers.folding import folded
from prerank.layers.interaction import DINUnit
from prerank.layers.similarity import normalised
from prerank.models.fit import FIT
from prerank.publish.item_ids import Ints
from prerank.publish.plan import kernels
from prerank.publish.plan.base import Floats, Plan
from prerank.publish.plan.scoring import HeadScores, array
from prerank.publish.store import ItemStore

CACHED = 1 << 18  # numbers of one block of the attention: with its outputs, what a core's second cache holds
FEW = 0.8  # below this share of the queries, only those that the candidates use are computed


class FITPlan(Plan):
    """FIT with meta queries and attention."""

    def __init__(self, model: FIT) -> None:
        """Fold a model in evaluation mode, on the CPU.

        Raises:
            NotImplementedError: a part of the model has no folded form here.
        """
        model = folded(model)
        queries = model.queries.group()
        self.queries = len(queries)
        self.user_fields = model.user_fields
        self.attention = _Attention(model.unit, queries)
        self.tower = _QueriedTower(model, queries)
        self.scores = HeadScores(model.scorer)

    def logits(self, features: Features, past: Tensor, store: ItemStore, positions: Ints) -> Floats:
        """See ``Plan``."""
        choices = store.indices(positions)[:, 0].astype(np.int64)  # one type whatever the store's: compiled once
        used = np.flatnonzero(np.bincount(choices, minlength=self.queries))
        chosen = None
        if len(used) < FEW * self.queries:
            places = np.zeros(self.queries, dtype=choices.dtype)
            places[used] = np.arange(len(used))
            choices, chosen = places[choices], torch.from_numpy(used)
        interest = self.attention(past, chosen)
        users = self.tower(self.user_fields(features), interest, chosen)
        return self.scores(users.numpy(), choices, store, positions)


class _Attention:
    """DIN's unit for a fixed group of N queries: the (n, D) pooled interests of those asked for.

    Biases are added by the pass that follows a product anyway.
    """

    def __init__(self, unit: nn.Module, queries: Tensor) -> None:
        if not isinstance(unit, DINUnit):
            raise NotImplementedError(f"{type(unit).__name__} has no folded form")
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

    def __call__(self, past: Tensor, chosen: Tensor | None) -> Tensor:
        steps, constants = self.steps, self.constants
        if chosen is not None:
            steps, constants = steps.index_select(0, chosen), constants.index_select(1, chosen)
        count, hidden, width = steps.shape
        if not len(past):
            return past.new_zeros(count, width)
        interests = past.new_empty(count, width)
        size = max(CACHED // (len(past) * hidden), 1)
        for start in range(0, count, size):
            block = slice(start, min(start + size, count))
            x = self.memory.take("first", len(past), (block.stop - start) * hidden)
            torch.mm(past, steps[block].flatten(0, 1).T, out=x)
            weights = self._weights(x.view(len(past), -1, hidden), constants[:, block].numpy())
            torch.mm(weights.view(len(past), -1).T, past, out=interests[block])
        return interests

    def _weights(self, x: Tensor, before: Floats) -> Tensor:
        """(L * n,) attention weights from the (L, n, hidden) products of the first layer, which are overwritten."""
        size = x.shape[0] * x.shape[1]
        for number, layer in enumerate(self.layers[:-1]):
            kernels.dice(x.numpy(), before, layer.slope, layer.shift, layer.alpha)
            x, rows = self.memory.take(f"hidden {number}", size, layer.weight.shape[1]), x.view(size, -1)
            torch.mm(rows, layer.weight, out=x)
            x, before = x.unsqueeze(1), layer.bias
        last, weights = self.layers[-1], self.memory.take("weights", size)
        kernels.dice_product(
            x.numpy(), before, last.slope, last.shift, last.alpha, *self.output, weights.view(x.shape[:2]).numpy()
        )
        return weights


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


class _QueriedTower:
    """The user tower on [user fields | interest | query], with a share of the first layer for each of the three."""

    def __init__(self, model: FIT, queries: Tensor) -> None:
        layers = [layer for layer in model.user_tower.layers if isinstance(layer, nn.Linear)]
        self.normalise = model.config.scorer == "cosine"
        first, width = layers[0], queries.shape[1]
        sizes = [first.in_features - 2 * width, width, width]
        self.of_profile, self.of_interest, of_query = (part.T.contiguous() for part in first.weight.split(sizes, dim=1))
        self.constants = torch.addmm(first.bias, queries, of_query)
        self.rest = [(layer.weight.T.contiguous(), array(layer.bias)[None]) for layer in layers[1:]]
        self.heads = (model.user_heads.weight.T.contiguous(), model.user_heads.bias) if model.headed else None

    def __call__(self, profile: Tensor, interest: Tensor, chosen: Tensor | None) -> Tensor:
        """(n, W) representations for (1, U) user fields and the (n, D) interests of the queries asked for."""
        constants = self.constants if chosen is None else self.constants.index_select(0, chosen)
        x = interest @ self.of_interest
        kernels.rectify(x.numpy(), (constants + profile @ self.of_profile).numpy())
        for weight, bias in self.rest:
            x = x @ weight
            kernels.rectify(x.numpy(), bias)
        if self.heads is not None:
            x = (x @ self.heads[0]).add_(self.heads[1])
        return normalised(x) if self.normalise else x


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
