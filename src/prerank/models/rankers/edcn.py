"""EDCN (Chen et al., CIKM 2021): cross and deep layers in parallel, joined and parted again after every layer."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from prerank.layers.crossing import CrossVector
from prerank.layers.tower import Tower
from prerank.models.base import ModelConfig
from prerank.models.single_tower import SingleTower
from prerank.schema import Inputs

BridgeName = Literal["hadamard", "sum", "concat", "attention"]


class EDCNConfig(ModelConfig):
    """Every layer is as wide as the input, F * d. The bridge is the paper's best, the Hadamard product."""

    name: Literal["edcn"] = "edcn"
    layers: int = Field(default=3, ge=1)
    bridge: BridgeName = "hadamard"
    temperature: float = Field(default=1.0, gt=0, description="of the regulation's softmax over fields")


class EDCN(SingleTower):
    """Per layer: x' = cross(x_0, x), h' = deep(h), f = bridge(x', h'), and (x, h) = regulation(f) for the next one.

    logit = w . [x'_L | h'_L | f_L] + b. The cross layer keeps DCN's residual, and x_0 is the cross branch's
    regulated input.
    """

    def __init__(self, inputs: Inputs, config: EDCNConfig) -> None:
        super().__init__(inputs, config)
        width, count = self.fields_width, len(self.field_names)
        self.regulations = nn.ModuleList(Regulation(count, config.temperature) for _ in range(config.layers))
        self.crosses = nn.ModuleList(CrossVector(width) for _ in range(config.layers))
        self.deeps = nn.ModuleList(Tower(width, [width]) for _ in range(config.layers))
        self.bridges = nn.ModuleList(Bridge(width, config.bridge) for _ in range(config.layers))
        self.output = nn.Linear(3 * width, 1)

    def logit(self, fields: Tensor) -> Tensor:
        """(n,) of both branches and the last bridge."""
        first, joined = None, fields
        parts = zip(self.regulations, self.crosses, self.deeps, self.bridges, strict=True)
        for regulation, cross, deep, bridge in parts:
            x, h = regulation(joined.view_as(fields))
            first = x if first is None else first
            x, h = cross(first, x), deep(h)
            joined = bridge(x, h)
        logit: Tensor = self.output(torch.cat([x, h, joined], dim=-1))
        return logit.squeeze(-1)


class Regulation(nn.Module):
    """A weight for each field and branch, softmax(g / temperature) over the fields: who reads what."""

    def __init__(self, fields: int, temperature: float) -> None:
        super().__init__()
        self.gates = nn.Parameter(torch.zeros(2, fields))
        self.temperature = temperature

    def forward(self, fields: Tensor) -> tuple[Tensor, Tensor]:
        """(n, F, d) to the inputs of cross and deep layer, (n, F * d) each."""
        cross, deep = torch.softmax(self.gates / self.temperature, dim=-1).unsqueeze(-1)
        return (fields * cross).flatten(1), (fields * deep).flatten(1)


class Bridge(nn.Module):
    """Joins the outputs of a cross and a deep layer into one of the same width.

    Attention weighs the branches against each other, each by a score of its own network.
    """

    def __init__(self, width: int, name: BridgeName) -> None:
        super().__init__()
        self.name = name
        if name == "concat":
            self.joint = nn.Linear(2 * width, width)
        if name == "attention":
            self.keys = nn.ModuleList(
                nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1, bias=False)) for _ in range(2)
            )

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """(n, x) from (n, x) of both branches."""
        match self.name:
            case "hadamard":
                return x * h
            case "sum":
                return x + h
            case "concat":
                return torch.relu(self.joint(torch.cat([x, h], dim=-1)))
            case "attention":
                scores = [key(branch) for key, branch in zip(self.keys, (x, h), strict=True)]
                weights = torch.softmax(torch.cat(scores, dim=-1), dim=-1)
                return weights[:, :1] * x + weights[:, 1:] * h
