"""DIEN's interaction unit: interests by a GRU, their evolution towards a query by an AUGRU (AAAI 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prerank.batch import History
from prerank.layers.embedding import take_rows
from prerank.layers.gru import GRU, Update
from prerank.layers.packing import Packing, pack
from prerank.layers.unit import InteractionUnit


class DIENUnit(InteractionUnit):
    """Reads the history once for each request, then once more for each query with attention in its update gate.

    A GRU turns behaviours e_t into interests h_t. A query attends to them, a = softmax(h_t W q)
    over the history, and the last state of an AUGRU over the interests is the result. States are as wide
    as behaviours. In training an auxiliary loss asks each interest for the next behaviour (see NextBehaviour).
    """

    def __init__(self, width: int, update: Update, auxiliary_weight: float) -> None:
        """Build both recurrences.

        Args:
            width: D, of queries and behaviours.
            update: the AUGRU's form (see GRU).
            auxiliary_weight: of the auxiliary loss; 0 leaves it out.
        """
        super().__init__()
        self.width = width
        self.extractor = GRU(width, width)
        self.attention = nn.Linear(width, width, bias=False)
        self.evolution = GRU(width, width, update)
        self.next_behaviour = NextBehaviour(width) if auxiliary_weight > 0 else None
        self.auxiliary_weight = auxiliary_weight

    def forward(self, queries: Tensor, history: History, profile: Tensor) -> Tensor:
        """(B, C, D) from (B, C, D) queries."""
        del profile
        with torch.autocast(queries.device.type, enabled=False):
            table, packing = self._packed(history)
            return self._evolve(queries, self._interests(table, history, packing), packing)

    def relaxed(self, queries: Tensor, history: History, profile: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """In training, ``next_behaviour`` is an auxiliary loss; evaluation draws no negatives."""
        if self.next_behaviour is None or not self.training:
            return super().relaxed(queries, history, profile)
        with torch.autocast(queries.device.type, enabled=False):
            table, packing = self._packed(history)
            interests = self._interests(table, history, packing)
            rows = history.steps.values[packing.places]
            loss = self.auxiliary_weight * self.next_behaviour(interests, table, rows, packing)
            return self._evolve(queries, interests, packing), {"next_behaviour": loss}

    def _packed(self, history: History) -> tuple[Tensor, Packing]:
        return history.table.to(self.attention.weight.dtype), pack(history.steps)

    def _interests(self, table: Tensor, history: History, packing: Packing) -> Tensor:
        """(T, D) states of the extractor, packed."""
        past = take_rows(table, history.steps.values[packing.places])
        interests: Tensor = self.extractor(past, packing)
        return interests.squeeze(1)

    def _evolve(self, queries: Tensor, interests: Tensor, packing: Packing) -> Tensor:
        keys = F.linear(queries.to(interests.dtype), self.attention.weight)[packing.order]
        scores = torch.linalg.vecdot(interests.unsqueeze(1), keys[packing.ranks])
        states = self.evolution(interests, packing, softmax(scores, packing))
        return packing.unpack(states[packing.last])


class NextBehaviour(nn.Module):
    """The auxiliary loss: an interest tells the next behaviour from another one (as in DIEN's code).

    The negative is any other distinct behaviour of the batch, all equally likely. A network on [h_t, e] with hidden
    layers of 100 and 50 sigmoid units gives the logit. Its first layer is split, so that the part of e is computed
    once for each distinct behaviour. BatchNorm comes first, as in the code; without it two layers of sigmoids leave
    the loss at that of guessing for hundreds of steps. It keeps no statistics, as it is used in training only.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.interest_norm, self.behaviour_norm = (nn.BatchNorm1d(width, track_running_stats=False) for _ in range(2))
        self.of_interest = nn.Linear(width, 100)
        self.of_behaviour = nn.Linear(width, 100, bias=False)
        self.rest = nn.Sequential(nn.Sigmoid(), nn.Linear(100, 50), nn.Sigmoid(), nn.Linear(50, 1))

    def forward(self, interests: Tensor, table: Tensor, rows: Tensor, packing: Packing) -> Tensor:
        """The mean over all steps that have a next one of -log p(next) - log(1 - p(negative)); 0 without any.

        Args:
            interests: (T, D), packed.
            table: (M, D) distinct behaviours.
            rows: (T,) the behaviours' rows in the table, packed.
            packing: of the histories.
        """
        positive = rows[len(rows) - len(packing.before) :]
        if not len(positive) or len(table) == 1:
            return interests.sum() * 0.0
        others = torch.randint(1, len(table), positive.shape, device=positive.device)
        negative = (positive + others) % len(table)
        of_interest = self.of_interest(self.interest_norm(interests)[packing.before])
        of_behaviour = self.of_behaviour(self.behaviour_norm(table))
        right, wrong = (self.rest(of_interest + take_rows(of_behaviour, row)) for row in (positive, negative))
        loss: Tensor = F.softplus(-right).mean() + F.softplus(wrong).mean()
        return loss


def softmax(scores: Tensor, packing: Packing) -> Tensor:
    """(T, C) packed scores, made to sum to 1 over each history."""
    every = packing.ranks.unsqueeze(1).expand_as(scores)
    shape = (len(packing.order), scores.shape[1])
    highest = scores.new_zeros(shape).scatter_reduce(0, every, scores.detach(), "amax", include_self=False)
    weights = (scores - highest[packing.ranks]).exp()
    totals = scores.new_zeros(shape).scatter_add(0, every, weights)
    return weights / totals.gather(0, every)
