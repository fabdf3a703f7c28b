"""What serves a request's logits: the model's own functions on folded weights, or something faster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prerank.batch import Features, History, Ragged
from prerank.models.base import PreRankingModel
from prerank.publish.item_ids import Ints
from prerank.publish.store import ItemStore

Floats = NDArray[np.float32]
Score = Callable[[slice], Floats]
"""From places in a request's list of candidates to the logits of these."""


class NoPlanError(Exception):
    """A model, or a part of it, has no plan of its own; the model's own functions serve it. Never seen by a user."""


class Past(NamedTuple):
    """The behaviour history of one user, oldest first.

    Attributes:
        table: (L, D) embeddings.
        items: (L,) positions in the store, which for one store stand for the same embeddings forever; -1 for items
            that it does not know, which are all alike. None where a history is made of records.
    """

    table: Tensor
    items: Ints | None


class Plan(ABC):
    """A way to compute a request's logits. Threads may share it: a request changes nothing that another one sees."""

    @abstractmethod
    def begin(
        self, features: Features, past: Past, store: ItemStore, positions: Ints, pairs: Features | None = None
    ) -> Score:
        """Compute what a request's candidates share, and return what scores them, all at once or some at a time.

        Args:
            features: one row of user and context fields.
            past: the behaviour history, its items from this store.
            store: where the candidates are.
            positions: (K,) the candidates' positions in the store.
            pairs: K rows of pair fields; None where the data has none or the model reads none.
        """

    def logits(
        self, features: Features, past: Past, store: ItemStore, positions: Ints, pairs: Features | None = None
    ) -> Floats:
        """(K,) logits of a request's candidates; arguments as in ``begin``."""
        return self.begin(features, past, store, positions, pairs)(slice(0, len(positions)))

    def prepare(self, store: ItemStore) -> None:
        """Compute now what requests would otherwise compute when they first meet an item."""
        del store


class PlainPlan(Plan):
    """The three functions of a model, as they are."""

    def __init__(self, model: PreRankingModel) -> None:
        self.model = model

    def begin(
        self, features: Features, past: Past, store: ItemStore, positions: Ints, pairs: Features | None = None
    ) -> Score:
        """By ``user``, then ``with_pairs`` and ``score``, on the model's device."""
        device = next(self.model.parameters()).device
        user = self.model.user(features.map(lambda tensor: tensor.to(device)), one_history(past.table.to(device)))

        def score(places: slice) -> Floats:
            items = store.gather(positions[places]).to(device)
            if pairs is not None:
                some = pairs if len(items) == pairs.rows else pairs.take(torch.arange(pairs.rows)[places])
                items = self.model.with_pairs(items, some.map(lambda tensor: tensor.to(device)))
            logits: Tensor = self.model.score(user, items)
            return logits.float().cpu().numpy()

        return score


def one_history(table: Tensor) -> History:
    """The history of a single request over its (L, D) embeddings."""
    steps = torch.arange(len(table), device=table.device)
    return History(table, Ragged(steps, torch.tensor([0, len(table)], device=table.device)))
