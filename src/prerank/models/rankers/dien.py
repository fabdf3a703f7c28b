"""DIEN (Zhou et al., AAAI 2019): interests evolve towards the candidate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from prerank.batch import Batch, History
from prerank.layers.dien import DIENUnit
from prerank.layers.pooling import mean_pool
from prerank.models.base import ModelConfig, Widths
from prerank.models.target_attention import DiceHead, TargetAttention
from prerank.schema import Inputs


class DIENConfig(ModelConfig):
    """The head's widths are those of DIEN's code."""

    name: Literal["dien"] = "dien"
    tower: Widths = (200, 80)
    augru: Literal["paper", "code"] = Field(default="paper", description="the form of the update gate")
    auxiliary_weight: float = Field(default=1.0, ge=0, description="weight of the next behaviour's loss")


class DIEN(TargetAttention):
    """logit = MLP([user | item | last state of the AUGRU | sum of history | sum * q]), as in DIEN's code."""

    def __init__(self, inputs: Inputs, config: DIENConfig) -> None:
        super().__init__(inputs, config)
        self.unit = DIENUnit(self.behaviour_width, config.augru, config.auxiliary_weight)
        self.head = DiceHead(self.user_width + self.candidate_width + 3 * self.behaviour_width, config.tower)

    def relaxed(self, batch: Batch, epochs: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits as in serving, and the loss of the next behaviour."""
        del epochs
        items = self.candidates(batch)
        profile, history, query = self.user_fields(batch.user), self.history(batch), self._query(items)
        interest, losses = self.unit.relaxed(query, history, self._by_field(profile))
        return self._output(profile, items, self.meet(query, interest, history)), losses

    def meet(self, query: Tensor, interest: Tensor, history: History) -> list[Tensor]:
        """[last state, sum of history, sum * q]."""
        total = (mean_pool(history) * history.steps.lengths.unsqueeze(1)).unsqueeze(1)
        return [interest, total, total * query]
