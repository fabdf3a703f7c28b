"""What serves a request's logits: the model's own functions on folded weights, or something faster."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prerank.batch import Features, History, Ragged
from prerank.models.base import PreRankingModel
from prerank.publish.item_ids import Ints
from prerank.publish.store import ItemStore

Floats = NDArray[np.float32]


class Plan(ABC):
    """A way to compute a request's logits. Nothing in it changes from request to request, so threads may share it."""

    @abstractmethod
    def logits(self, features: Features, past: Tensor, store: ItemStore, positions: Ints) -> Floats:
        """Score candidates for one user.

        Args:
            features: one row of user and context fields.
            past: (L, D) the embeddings of the behaviour history, oldest first.
            store: where the candidates are.
            positions: (K,) the candidates' positions in the store.

        Returns:
            (K,) logits.
        """


class PlainPlan(Plan):
    """The three functions of a model, as they are."""

    def __init__(self, model: PreRankingModel) -> None:
        self.model = model

    def logits(self, features: Features, past: Tensor, store: ItemStore, positions: Ints) -> Floats:
        """By ``user`` and ``score``, on the model's device."""
        device = next(self.model.parameters()).device
        user = self.model.user(features.map(lambda tensor: tensor.to(device)), one_history(past.to(device)))
        logits: Tensor = self.model.score(user, store.gather(positions).to(device))
        return logits.float().cpu().numpy()


def one_history(past: Tensor) -> History:
    """The history of a single request over its (L, D) embeddings."""
    steps = torch.arange(len(past), device=past.device)
    return History(past, Ragged(steps, torch.tensor([0, len(past)], device=past.device)))
