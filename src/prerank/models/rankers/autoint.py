"""AutoInt (Song et al., CIKM 2019): fields attend to fields; AutoInt+ has a perceptron and a linear term beside it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from prerank.layers.crossing import FieldAttention
from prerank.layers.tower import Tower
from prerank.models.base import ModelConfig, Widths
from prerank.models.single_tower import SingleTower
from prerank.schema import Inputs


class AutoIntConfig(ModelConfig):
    """Three layers of two heads, 32 wide."""

    name: Literal["autoint"] = "autoint"
    layers: int = Field(default=3, ge=1)
    heads: int = Field(default=2, ge=1)
    head_width: int = Field(default=32, ge=1)
    tower: Widths | None = Field(default=None, description="AutoInt+'s perceptron, which brings a linear term along")


class AutoInt(SingleTower):
    """logit = w . [e^L_1 | ... | e^L_F] + b, and AutoInt+ adds MLP([e_1 | ... | e_F]) and the linear term."""

    def __init__(self, inputs: Inputs, config: AutoIntConfig) -> None:
        super().__init__(inputs, config, wide=config.tower is not None)
        widths = [config.embedding] + [config.heads * config.head_width] * config.layers
        self.attention = nn.Sequential(
            *(FieldAttention(width, config.heads, config.head_width) for width in widths[:-1])
        )
        plus = config.tower is not None
        self.output = nn.Linear(len(self.field_names) * widths[-1], 1, bias=not plus)
        self.tower = Tower(self.fields_width, config.tower) if config.tower else None
        self.deep = nn.Linear(config.tower[-1], 1, bias=False) if config.tower else None

    def logit(self, fields: Tensor) -> Tensor:
        """(n,) of attention and perceptron."""
        logit: Tensor = self.output(self.attention(fields).flatten(1))
        if self.tower is not None and self.deep is not None:
            logit = logit + self.deep(self.tower(fields.flatten(1)))
        return logit.squeeze(-1)
