"""Interaction units: how a query attends to a behaviour history (FIT sec. 4.1; DIN)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prerank.batch import History
from prerank.layers.pooling import weighted_sum


class Dice(nn.Module):
    """DIN's activation: p * x + (1 - p) * alpha * x with p = sigmoid(BatchNorm(x)), alpha learned, 0 at first.

    Histories are ragged, so the statistics are those of real positions only.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, eps=1e-8, affine=False)
        self.alpha = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(R, channels) to the same shape."""
        if self.training and len(x) < 2:  # no variance to speak of: a batch with hardly any history
            norm = self.norm
            assert norm.running_mean is not None and norm.running_var is not None
            gate = torch.sigmoid((x - norm.running_mean) * torch.rsqrt(norm.running_var + norm.eps))
        else:
            gate = torch.sigmoid(self.norm(x))
        return x * (self.alpha + (1 - self.alpha) * gate)


class DINUnit(nn.Module):
    """Attention of queries to a history: a small network on [q, e, q - e, q * e] weighs each behaviour.

    The weights are used as they are, without softmax (FIT eq. 19). The first layer is split algebraically,
    W [q, e, q-e, q*e] = (W1 + W3) q + (W2 - W3) e + W4 (q * e), so that the part of e is computed once for each
    distinct behaviour and the part of q once for each query.
    """

    def __init__(self, width: int, hidden: Sequence[int]) -> None:
        """Build the network.

        Args:
            width: D, of queries and behaviours.
            hidden: widths of the hidden layers, (64, 16) in FIT; the last layer has one output.
        """
        super().__init__()
        self.first = nn.Linear(4 * width, hidden[0])
        layers: list[nn.Module] = [Dice(hidden[0])]
        for before, after in pairwise(hidden):
            layers += [nn.Linear(before, after), Dice(after)]
        self.rest = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))

    def forward(self, queries: Tensor, history: History) -> Tensor:
        """Pool each history once for each query.

        Args:
            queries: (B, C, D).
            history: B histories.

        Returns:
            (B, C, D).
        """
        requests, count, width = queries.shape
        steps = history.steps
        if not steps.values.numel():
            return queries.new_zeros(requests, count, width)
        of_query, of_step, of_product = self._split()
        hidden = of_product.shape[0]
        owners = steps.owners
        per_query = F.linear(queries, of_query, self.first.bias).flatten(1)
        per_step = F.linear(history.table, of_step)
        # F.embedding is the gather whose gradient is parallel on the CPU.
        pairs = F.embedding(owners, queries.flatten(1)).unflatten(1, (count, width))
        pairs = pairs * F.embedding(steps.values, history.table).unsqueeze(1)
        x = F.embedding(owners, per_query).unflatten(1, (count, hidden))
        x = x + F.embedding(steps.values, per_step).unsqueeze(1)
        x = torch.addmm(x.flatten(0, 1), pairs.flatten(0, 1), of_product.T)
        weights: Tensor = self.rest(x)
        return weighted_sum(history, weights.view(-1, count))

    def _split(self) -> tuple[Tensor, Tensor, Tensor]:
        """The first layer's weights for q, e and q * e, each (hidden, D)."""
        query, step, difference, product = self.first.weight.chunk(4, dim=1)
        return query + difference, step - difference, product
