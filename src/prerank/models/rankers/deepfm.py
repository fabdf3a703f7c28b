"""DeepFM (Guo et al., IJCAI 2017): a factorisation machine and a perceptron on the same embeddings."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from prerank.layers.crossing import pairwise_products
from prerank.layers.tower import Tower
from prerank.models.base import ModelConfig, Widths
from prerank.models.single_tower import SingleTower
from prerank.schema import Inputs


class DeepFMConfig(ModelConfig):
    """IntTower's sizes (sec. 5.1.4)."""

    name: Literal["deepfm"] = "deepfm"
    tower: Widths = (300, 300, 128)


class DeepFM(SingleTower):
    """logit = b + sum_f w_f[x_f] + sum_{f < g} <e_f, e_g> + w . MLP([e_1 | ... | e_F])."""

    def __init__(self, inputs: Inputs, config: DeepFMConfig) -> None:
        super().__init__(inputs, config, wide=True)
        self.tower = Tower(self.fields_width, config.tower)
        self.output = nn.Linear(self.tower.width, 1, bias=False)  # the linear term has the bias

    def logit(self, fields: Tensor) -> Tensor:
        """(n,) of second order and perceptron."""
        deep: Tensor = self.output(self.tower(fields.flatten(1)))
        return pairwise_products(fields) + deep.squeeze(-1)
