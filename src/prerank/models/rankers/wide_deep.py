"""Wide&Deep (Cheng et al., DLRS 2016): a linear model beside a multilayer perceptron."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from prerank.layers.tower import Tower
from prerank.models.base import ModelConfig, Widths
from prerank.models.single_tower import SingleTower
from prerank.schema import Inputs


class WideDeepConfig(ModelConfig):
    """IntTower's sizes (sec. 5.1.4)."""

    name: Literal["wide_deep"] = "wide_deep"
    tower: Widths = (300, 300, 128)


class WideDeep(SingleTower):
    """logit = b + sum_f w_f[x_f] + w . MLP([e_1 | ... | e_F]).

    The wide part is the linear term on all fields instead of crosses chosen by hand, and both parts share one
    optimiser (the paper trains the wide part by FTRL).
    """

    def __init__(self, inputs: Inputs, config: WideDeepConfig) -> None:
        super().__init__(inputs, config, wide=True)
        self.tower = Tower(self.fields_width, config.tower)
        self.output = nn.Linear(self.tower.width, 1, bias=False)  # the linear term has the bias

    def logit(self, fields: Tensor) -> Tensor:
        """(n,) of the deep part."""
        logit: Tensor = self.output(self.tower(fields.flatten(1))).squeeze(-1)
        return logit
