"""DIN (Zhou et al., KDD 2018): the candidate attends to the history."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from prerank.batch import History
from prerank.layers.unit import AttentionUnit
from prerank.models.base import ModelConfig, Widths
from prerank.models.target_attention import DiceHead, TargetAttention
from prerank.schema import Inputs


class DINConfig(ModelConfig):
    """Attention as wide as in DIN's code, the head as in DIEN's (its authors' later setting)."""

    name: Literal["din"] = "din"
    tower: Widths = (200, 80)
    attention: Widths = (80, 40)
    positions: bool = Field(default=False, description="a learned term for each place in the history; ours, as in FIT")


class DIN(TargetAttention):
    """pool = sum_j a(q, e_j) e_j without softmax, logit = MLP([user | item | pool | pool * q]).

    q are the candidate's history fields. DIN prints an outer product of pool and q; its code multiplies
    elementwise. Dice follows every hidden layer of attention and head.
    """

    def __init__(self, inputs: Inputs, config: DINConfig) -> None:
        super().__init__(inputs, config)
        positions = inputs.history_length if config.positions else 0
        self.unit = AttentionUnit(self.behaviour_width, config.attention, positions)
        self.head = DiceHead(self.user_width + self.candidate_width + 2 * self.behaviour_width, config.tower)

    def meet(self, query: Tensor, interest: Tensor, history: History) -> list[Tensor]:
        """[pool, pool * q]."""
        del history
        return [interest, interest * query]
