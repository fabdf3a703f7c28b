"""LR, logistic regression on ids (Richardson et al., WWW 2007): the floor of the papers' tables."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from prerank.batch import Features, History
from prerank.layers.embedding import FieldEmbeddings
from prerank.layers.pooling import mean_pool
from prerank.models.base import ModelConfig, PreRankingModel
from prerank.schema import Inputs


class LRConfig(ModelConfig):
    """A field's embedding is its weight."""

    name: Literal["lr"] = "lr"
    embedding: int = Field(default=1, ge=1, le=1, description="a weight is one number")


class LR(PreRankingModel):
    """logit = b + sum_f w_f[x_f]: one scalar a request, one an item, and their sum is the whole score.

    Past items have weights of their own, averaged over the history.
    """

    reads_pairs = True

    def __init__(self, inputs: Inputs, config: LRConfig) -> None:
        super().__init__(inputs, config)
        past = {name: inputs.item[name] for name in inputs.history}
        self.past_fields = FieldEmbeddings(past, config.embedding, config.embedding_std)
        self.pair_fields = FieldEmbeddings(inputs.pair, config.embedding, config.embedding_std)
        self.bias = nn.Parameter(torch.zeros(1))
        self.behaviour_width = 1

    def behaviour(self, features: Features) -> Tensor:
        """(R, 1) what R items weigh in a history."""
        return _sum(self.past_fields(features))

    def user(self, features: Features, history: History) -> Tensor:
        """(B, 1) weights of B requests and of their histories."""
        return _sum(self.user_fields(features)) + mean_pool(history) + self.bias

    def item(self, features: Features) -> Tensor:
        """(R, 1) weights of R items."""
        return _sum(self.item_fields(features))

    def with_pairs(self, items: Tensor, pairs: Features) -> Tensor:
        """(..., 1) weights of items and of their pair features."""
        return items + _sum(self.pair_fields(pairs)).view(items.shape)

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """The sum of both."""
        return (user + item).squeeze(-1)


def _sum(weights: Tensor) -> Tensor:
    return weights.sum(-1, keepdim=True)
