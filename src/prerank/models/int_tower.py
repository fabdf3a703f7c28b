"""IntTower (Li et al., CIKM 2022): weighted fields, heads of every user layer against the item's, contrastive loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from prerank.batch import Batch, Features, History, Ragged
from prerank.layers.dense import Dense
from prerank.layers.losses import info_nce
from prerank.layers.pooling import mean_pool
from prerank.layers.similarity import ConcatScorer, Form, as_joined, late_interaction
from prerank.layers.squeeze import LightSE, SENet
from prerank.layers.tower import Tower
from prerank.models.base import ModelConfig, PreRankingModel, Widths
from prerank.schema import Inputs


class IntTowerConfig(ModelConfig):
    """The paper's parts. 16 heads of 64 are the 1024 floats, 8 x Two-Tower's storage, that FIT charges IntTower with.

    IntTower's paper says H = number of user fields, but its main table equals its H = 64 row.
    """

    name: Literal["int_tower"] = "int_tower"
    tower: Widths = (300, 300, 128)
    se: Literal["light", "senet", "none"] = Field(default="light", description="weights of the fields")
    user_layers: Literal["all", "last"] | PositiveInt = Field(
        default="all", description="user layers that meet the item's heads; a number is that layer alone"
    )
    scorer: Form | Literal["concat"] = Field(default="sum_max", description="of each layer; concat is the FC variant")
    heads: int = Field(default=16, ge=1, description="H of both sides")
    head_width: int = Field(default=64, ge=1)
    cir: float = Field(default=0.1, ge=0, description="weight of the contrastive loss")
    temperature: float = Field(default=0.1, gt=0, description="of the contrastive loss")
    official_compat: bool = Field(default=False, description="as the official code: residual Light-SE, h^0 to h^(L-1)")

    @model_validator(mode="after")
    def _layer_exists(self) -> Self:
        if isinstance(self.user_layers, int) and self.user_layers > len(self.tower):
            raise ValueError(
                f"user_layers: the tower has {len(self.tower)} layers, there is no layer {self.user_layers}"
            )
        return self


class IntTower(PreRankingModel):
    """The logit is the sum over user layers of a late interaction with the item's last layer (sec. 4.2).

    The paper does not use histories; here the mean-pooled history joins the user fields, as in Two-Tower, so that
    models see the same data.
    """

    def __init__(self, inputs: Inputs, config: IntTowerConfig) -> None:
        super().__init__(inputs, config)
        self.config: IntTowerConfig = config
        self.width = config.heads * config.head_width
        user_inputs, compat = self.user_width + self.behaviour_width, config.official_compat
        self.user_se = _field_weights(len(inputs.user) + len(inputs.history), config)
        self.item_se = _field_weights(len(inputs.item), config)
        self.user_tower = Tower(user_inputs, config.tower[:-1] if compat else config.tower)
        self.item_tower = Tower(self.item_width, config.tower)
        widths = (user_inputs, *config.tower[:-1]) if compat else config.tower
        self.layers = _chosen(config.user_layers, len(widths))
        self.user_heads = nn.ModuleList(Dense(width, self.width) for width in widths[self.layers])
        self.item_heads = Dense(config.tower[-1], self.width)
        self.scorers = nn.ModuleList(_scorer(config) for _ in self.user_heads)

    def user(self, features: Features, history: History) -> Tensor:
        """(B, L * H * P) the heads of every layer (eq. 6)."""
        return torch.cat(self._user_heads(features, history), dim=-1)

    def item(self, features: Features) -> Tensor:
        """(R, H * P) the heads of the last layer (eq. 7)."""
        return self._joined(self.item_heads(self.item_tower(self.item_se(self.item_fields(features)))))

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """The sum of the layers' scores (eqs. 8 and 9)."""
        return self._score(user.split(self.width, dim=-1), item)

    def relaxed(self, batch: Batch, epochs: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The served path with CIR: positives against all items of the batch (eq. 10)."""
        del epochs
        users, items = self._user_heads(batch.user, self.history(batch)), self.item(batch.items)
        logits = self._score([layer.unsqueeze(1) for layer in users], items.unflatten(0, batch.labels.shape))
        if not self.config.cir:
            return logits, {}
        positives = (batch.labels.flatten() == 1).nonzero().squeeze(1)
        last = users[-1].index_select(0, positives // batch.labels.shape[1])
        ids = batch.items.columns.get(self.inputs.item_id)
        assert not isinstance(ids, Ragged)
        return logits, {"cir": self.config.cir * info_nce(last, items, positives, self.config.temperature, ids)}

    def _user_heads(self, features: Features, history: History) -> list[Tensor]:
        """(B, H * P) of each layer."""
        x = self.user_se(torch.cat([self.user_fields(features), mean_pool(history)], dim=-1))
        layers = self.user_tower.every(x)
        layers = [x, *layers] if self.config.official_compat else layers
        heads = [project(h) for project, h in zip(self.user_heads, layers[self.layers], strict=True)]
        return [self._joined(of_layer) for of_layer in heads]

    def _score(self, layers: Sequence[Tensor], item: Tensor) -> Tensor:
        scores = [scorer(of_layer, item) for scorer, of_layer in zip(self.scorers, layers, strict=True)]
        return torch.stack(scores).sum(dim=0)

    def _joined(self, heads: Tensor) -> Tensor:
        return heads if self.config.scorer == "concat" else as_joined(self.config.scorer, heads)


def _chosen(layers: Literal["all", "last"] | int, of: int) -> slice:
    if layers == "all":
        return slice(None)
    number = of if layers == "last" else layers
    return slice(number - 1, number)


def _field_weights(fields: int, config: IntTowerConfig) -> nn.Module:
    match config.se:
        case "light":
            return LightSE(fields, compatible=config.official_compat)
        case "senet":
            return SENet(fields)
        case "none":
            return nn.Identity()


def _scorer(config: IntTowerConfig) -> nn.Module:
    if config.scorer == "concat":
        return ConcatScorer(config.heads * config.head_width)
    return late_interaction(config.scorer, config.heads, config.heads, config.embedding)
