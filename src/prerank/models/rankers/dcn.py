"""Deep & Cross networks: DCN (Wang et al., ADKDD 2017) and DCN-v2 (Wang et al., WWW 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from prerank.layers.crossing import CrossMatrix, CrossVector
from prerank.layers.tower import Tower
from prerank.models.base import ModelConfig, Widths
from prerank.models.single_tower import SingleTower
from prerank.schema import Inputs


class DCNConfig(ModelConfig):
    """IntTower's perceptron; it does not name the number of cross layers."""

    name: Literal["dcn"] = "dcn"
    tower: Widths = (300, 300, 128)
    cross_layers: int = Field(default=3, ge=1)


class DCN(SingleTower):
    """logit = w . [x_L | MLP(x_0)] + b with x_{l+1} = x_0 (x_l . w_l) + b_l + x_l; no linear term."""

    def __init__(self, inputs: Inputs, config: DCNConfig) -> None:
        super().__init__(inputs, config)
        self.crosses = nn.ModuleList(CrossVector(self.fields_width) for _ in range(config.cross_layers))
        self.tower = Tower(self.fields_width, config.tower)
        self.output = nn.Linear(self.fields_width + self.tower.width, 1)

    def logit(self, fields: Tensor) -> Tensor:
        """(n,) of both networks, which see the fields side by side."""
        first = fields.flatten(1)
        logit: Tensor = self.output(torch.cat([_crossed(self.crosses, first), self.tower(first)], dim=-1))
        return logit.squeeze(-1)


class DCNv2Config(ModelConfig):
    """As DCN. ``parallel``: perceptron beside the cross network, ``stacked``: on it (the paper has both)."""

    name: Literal["dcn_v2"] = "dcn_v2"
    tower: Widths = (300, 300, 128)
    cross_layers: int = Field(default=3, ge=1)
    rank: int | None = Field(default=None, ge=1, description="of the cross matrices; none is full rank")
    structure: Literal["parallel", "stacked"] = "parallel"


class DCNv2(SingleTower):
    """As DCN with x_{l+1} = x_0 * (W_l x_l + b_l) + x_l; stacked: logit = w . MLP(x_L) + b."""

    def __init__(self, inputs: Inputs, config: DCNv2Config) -> None:
        super().__init__(inputs, config)
        self.crosses = nn.ModuleList(CrossMatrix(self.fields_width, config.rank) for _ in range(config.cross_layers))
        self.tower = Tower(self.fields_width, config.tower)
        self.stacked = config.structure == "stacked"
        self.output = nn.Linear(self.tower.width + (0 if self.stacked else self.fields_width), 1)

    def logit(self, fields: Tensor) -> Tensor:
        """(n,) of both networks."""
        first = fields.flatten(1)
        crossed = _crossed(self.crosses, first)
        last = self.tower(crossed) if self.stacked else torch.cat([crossed, self.tower(first)], dim=-1)
        logit: Tensor = self.output(last)
        return logit.squeeze(-1)


def _crossed(crosses: nn.ModuleList, first: Tensor) -> Tensor:
    x = first
    for cross in crosses:
        x = cross(first, x)
    return x
