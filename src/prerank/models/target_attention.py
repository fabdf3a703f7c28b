"""The base of rankers that attend to the history once for each candidate: DIN and DIEN.

Additional shape letters: T behaviours of all histories together, W width of an interest, d width of a field's
embedding.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from prerank.batch import Features, History, Ragged
from prerank.layers.dense import Dense
from prerank.layers.dice import DiceLinear
from prerank.layers.embedding import FieldEmbeddings, take_rows
from prerank.layers.unit import InteractionUnit
from prerank.models.base import ModelConfig, PreRankingModel, Widths
from prerank.schema import Inputs

PAIRS = 1 << 16
"""Pairs of behaviour and candidate that ``score`` attends with at a time: its memory does not grow with K."""


class TargetAttention(PreRankingModel):
    """A user row holds the whole history, so that ``score`` can attend to it with each candidate as the query.

    The row is [profile and context fields | L slots of D, the most recent behaviour first | length]; slots beyond the
    length are read by nobody. An item row is its fields' embeddings; those of the history fields are the query. In
    training and evaluation the histories stay ragged and no slots are made.
    """

    reads_pairs = True

    unit: InteractionUnit
    head: DiceHead
    query_columns: Tensor

    def __init__(self, inputs: Inputs, config: ModelConfig) -> None:
        super().__init__(inputs, config)
        self.slots = inputs.history_length
        self.pair_width = len(inputs.pair) * config.embedding
        self.candidate_width = self.item_width + self.pair_width
        self.pair_fields = FieldEmbeddings(inputs.pair, config.embedding, config.embedding_std)
        names = list(inputs.item)
        fields = torch.tensor([names.index(name) for name in inputs.history])
        columns = fields.unsqueeze(1) * config.embedding + torch.arange(config.embedding)
        self.register_buffer("query_columns", columns.flatten(), persistent=False)

    def user(self, features: Features, history: History) -> Tensor:
        """(B, Wu) [profile and context | slots | length]."""
        profile, steps = self.user_fields(features), history.steps
        recent = steps.from_end < self.slots
        places = (steps.owners * self.slots + steps.from_end)[recent]
        past = take_rows(history.table.to(profile.dtype), steps.values[recent])
        slots = profile.new_zeros(features.rows * self.slots, self.behaviour_width).index_copy(0, places, past)
        length = steps.lengths.clamp(max=self.slots).to(profile.dtype).unsqueeze(1)
        return torch.cat([profile, slots.view(features.rows, self.slots * self.behaviour_width), length], dim=1)

    def item(self, features: Features) -> Tensor:
        """(R, Wv) item fields."""
        embedded: Tensor = self.item_fields(features)
        return embedded

    def with_pairs(self, items: Tensor, pairs: Features) -> Tensor:
        """(..., Wv') [item fields | pair fields]; the head reads both, the query is of the item's alone."""
        return torch.cat([items, self.pair_fields(pairs).view(*items.shape[:-1], self.pair_width)], dim=-1)

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """The whole network for every pair. A request's candidates share what they can, its history above all."""
        shape = torch.broadcast_shapes(user.shape[:-1], item.shape[:-1])
        shared = len(shape) > 0 and (user.dim() == 1 or user.shape[-2] == 1)  # candidates of one request each
        requests, count = (shape[:-1], shape[-1]) if shared else (shape, 1)
        if not item.numel() or not user.numel():
            return item.new_zeros(shape)
        user = user.unsqueeze(-2) if user.dim() == 1 or not shared else user
        users = user.expand(*requests, 1, user.shape[-1]).reshape(-1, user.shape[-1])
        items = item.expand(*shape, item.shape[-1]).reshape(len(users), count, item.shape[-1])
        size = max(PAIRS // self.slots, 1)
        parts = zip(users.split(size), items.split(size), strict=True)
        return torch.cat([self._in_parts(some, own) for some, own in parts]).view(shape)

    def pair(self, features: Features, history: History, items: Tensor) -> Tensor:
        """The same from ragged histories."""
        return self._logits(self.user_fields(features), history, items)

    @abstractmethod
    def meet(self, query: Tensor, interest: Tensor, history: History) -> list[Tensor]:
        """What the head sees besides profile and item.

        Args:
            query: (B, C, D) of the candidates.
            interest: (B, C, W) the unit's results.
            history: B histories.

        Returns:
            Tensors of (B, C or 1, any width).
        """

    def _logits(self, profile: Tensor, history: History, items: Tensor) -> Tensor:
        """(B, C) logits of (B, F * d) profiles with their histories and their own (B, C, Wv) items."""
        query = self._query(items)
        interest = self.unit(query, history, self._by_field(profile))
        return self._output(profile, items, self.meet(query, interest, history))

    def _in_parts(self, users: Tensor, items: Tensor) -> Tensor:
        """(n, C) logits of (n, Wu) users and their own (n, C, Wv) items, as many at a time as PAIRS allows."""
        profile, history = self._read(users)
        parts = items.split(max(PAIRS // (self.slots * len(users)), 1), dim=1)
        return torch.cat([self._logits(profile, history, part) for part in parts], dim=1)

    def _query(self, items: Tensor) -> Tensor:
        return items.index_select(-1, self.query_columns)

    def _by_field(self, profile: Tensor) -> Tensor:
        fields: Tensor = profile.unflatten(1, (-1, self.config.embedding))
        return fields

    def _output(self, profile: Tensor, items: Tensor, met: list[Tensor]) -> Tensor:
        every = [part.expand(-1, items.shape[1], -1) for part in (profile.unsqueeze(1), items, *met)]
        logits: Tensor = self.head(torch.cat(every, dim=-1).flatten(0, 1))
        return logits.view(items.shape[:2])

    def _read(self, users: Tensor) -> tuple[Tensor, History]:
        """Profiles and histories of (n, Wu) user rows."""
        profile, slots = users[:, : self.user_width], users[:, self.user_width : -1]
        lengths = users[:, -1].round().long()
        steps = Ragged(lengths.new_empty(int(lengths.sum())), torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))
        values = steps.owners * self.slots + steps.from_end  # oldest first again
        table = slots.reshape(-1, self.behaviour_width)
        return profile, History(table, Ragged(values, steps.offsets))


class DiceHead(nn.Module):
    """BatchNorm, then a network with Dice after each layer but the last, as in the codes of DIN and DIEN."""

    def __init__(self, inputs: int, widths: Widths) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.first = Dense(inputs, widths[0])
        self.rest = nn.Sequential(*map(DiceLinear, widths, (*widths[1:], 1)))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, 1), in the parameters' precision, autocast or not."""
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.rest(self.first(self.norm(x.to(self.first.weight.dtype))))
            return out
