"""Two-Tower, the industry's pre-ranking model (DSSM; Huang et al., CIKM 2013): a cosine of two towers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from prerank.batch import Features, History
from prerank.layers.pooling import mean_pool
from prerank.layers.recency import RecencyPool
from prerank.layers.similarity import ScaledDot, normalised
from prerank.layers.tower import Tower
from prerank.models.base import PreRankingModel, Widths
from prerank.models.selectable import SelectableConfig
from prerank.schema import Inputs


class TwoTowerConfig(SelectableConfig):
    """FIT's sizes. ``head``: ``dot`` leaves the vectors as they are, the others normalise (see ScaledDot)."""

    name: Literal["two_tower"] = "two_tower"
    tower: Widths = (300, 300, 128)
    head: Literal["scaled", "bias", "printed", "dot"] = "scaled"
    output: Literal["relu", "linear"] = Field(default="relu", description="last layer; linear: without the ReLU, ours")
    history: Literal["mean", "recency"] = Field(default="mean", description="recency: learned weights of places, ours")


class TwoTower(PreRankingModel):
    """User fields and the pooled history against item fields (FIT sec. 3, eqs. 1 to 3)."""

    pool: Callable[[History], Tensor]

    def __init__(self, inputs: Inputs, config: TwoTowerConfig) -> None:
        super().__init__(inputs, config)
        self.pool = RecencyPool(inputs.history_length) if config.history == "recency" else mean_pool
        rectified = config.output == "relu"
        self.user_tower = Tower(self.user_width + self.behaviour_width, config.tower, rectified=rectified)
        self.item_tower = Tower(self.item_width, config.tower, rectified=rectified)
        self.normalise = config.head != "dot"
        self.scorer = ScaledDot("bias" if config.head == "dot" else config.head)

    def user(self, features: Features, history: History) -> Tensor:
        """(B, Wu) unit vectors of B requests."""
        x = torch.cat([self.user_fields(features), self.pool(history)], dim=-1)
        return self._output(self.user_tower(x))

    def item(self, features: Features) -> Tensor:
        """(R, Wv) unit vectors of R items."""
        return self._output(self.item_tower(self.item_fields(features)))

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """The scaled cosine."""
        logit: Tensor = self.scorer(user, item)
        return logit

    def _output(self, h: Tensor) -> Tensor:
        return normalised(h) if self.normalise else h
