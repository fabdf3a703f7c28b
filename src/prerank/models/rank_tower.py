"""RankTower (Yan and Li, arXiv 2024, inferred): gated heads, gated cross-attention, maximum similarity.

Inferred: the equations of arXiv 2407.12385 were not at hand, only its abstract and descriptions by others. The parts
are those that they name; how each is computed is our reading.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from prerank.batch import Batch, Features, History
from prerank.errors import ConfigError
from prerank.layers.cross_attention import GatedCrossAttention
from prerank.layers.dense import Dense
from prerank.layers.losses import listwise, stage_order
from prerank.layers.pooling import mean_pool
from prerank.layers.similarity import Form, as_joined, late_interaction
from prerank.layers.tower import Tower
from prerank.models.base import ModelConfig, PreRankingModel, Widths
from prerank.schema import Inputs


class RankTowerConfig(ModelConfig):
    """Two heads of 64, the 128 floats that FIT charges RankTower with."""

    name: Literal["rank_tower"] = "rank_tower"
    tower: Widths = (300, 300, 128)
    heads: int = Field(default=2, ge=1, description="H of both sides")
    head_width: int = Field(default=64, ge=1)
    scorer: Form = Field(default="max_cosine", description="late interaction of the attended heads")
    listwise: float = Field(default=0.0, ge=0, description="weight of the listwise loss over a request's candidates")
    stages: float = Field(default=0.0, ge=0, description="weight of the loss over the order of their stages")


class RankTower(PreRankingModel):
    """Heads of both towers that attend to each other, once a candidate, before they are compared."""

    def __init__(self, inputs: Inputs, config: RankTowerConfig) -> None:
        super().__init__(inputs, config)
        self.config: RankTowerConfig = config
        self.user_tower = Tower(self.user_width + self.behaviour_width, config.tower)
        self.item_tower = Tower(self.item_width, config.tower)
        self.user_heads = _GatedHeads(config)
        self.item_heads = _GatedHeads(config)
        self.user_attention = GatedCrossAttention(config.head_width)
        self.item_attention = GatedCrossAttention(config.head_width)
        self.scorer = late_interaction(config.scorer, config.heads, config.heads, config.embedding)

    def user(self, features: Features, history: History) -> Tensor:
        """(B, H * P) gated heads of B requests."""
        x = torch.cat([self.user_fields(features), mean_pool(history)], dim=-1)
        heads: Tensor = self.user_heads(self.user_tower(x))
        return heads

    def item(self, features: Features) -> Tensor:
        """(R, H * P) gated heads of R items."""
        heads: Tensor = self.item_heads(self.item_tower(self.item_fields(features)))
        return heads

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """Each side's heads attend to the other's, then the late interaction."""
        of_user, of_item = (x.unflatten(-1, (self.config.heads, -1)) for x in (user, item))
        sides = self.user_attention(of_user, of_item), self.item_attention(of_item, of_user)
        logit: Tensor = self.scorer(*(as_joined(self.config.scorer, side.flatten(-2)) for side in sides))
        return logit

    def relaxed(self, batch: Batch, epochs: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The served path, with the losses of the hybrid objective that have a weight.

        Raises:
            ConfigError: the order of stages has a weight, and the data has no stages.
        """
        logits, losses = super().relaxed(batch, epochs)
        if self.config.listwise > 0:
            losses["listwise"] = self.config.listwise * listwise(logits, batch.labels)
        if self.config.stages > 0:
            if batch.grades is None:
                raise ConfigError("model.stages: the data set has none; build it with --set labels=stages")
            losses["stages"] = self.config.stages * stage_order(logits, batch.grades)
        return logits, losses


class _GatedHeads(nn.Module):
    """Head a is (W_a h + b_a) * sigmoid(V_a h + c_a)."""

    def __init__(self, config: RankTowerConfig) -> None:
        super().__init__()
        self.project = Dense(config.tower[-1], config.heads * config.head_width)
        self.gate = Dense(config.tower[-1], config.heads * config.head_width)

    def forward(self, h: Tensor) -> Tensor:
        """(R, W) to (R, H * P)."""
        heads: Tensor = self.project(h) * torch.sigmoid(self.gate(h))
        return heads
