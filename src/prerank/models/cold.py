"""COLD (Wang et al., DLP-KDD 2020): a whole network at pre-ranking, on few fields that it chose itself."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from prerank.batch import Batch
from prerank.layers.tower import Tower
from prerank.models.base import Widths
from prerank.models.selectable import SelectableConfig
from prerank.models.single_tower import SingleTower
from prerank.schema import Inputs


class COLDConfig(SelectableConfig):
    """FIT's and IntTower's sizes; the original has seven group-wise layers."""

    name: Literal["cold"] = "cold"
    tower: Widths = (300, 300, 128)


class COLD(SingleTower):
    """s = sigmoid(W [e_1 | ... | e_F] + b), logit = w . MLP([s_1 e_1 | ... | s_F e_F]) + c.

    The mean of s_f over data says how much the model makes of field f. The method has two phases: train, rank the
    fields by it, and train again from the best ones (``prerank select``, then ``fields``).
    """

    def __init__(self, inputs: Inputs, config: COLDConfig) -> None:
        super().__init__(inputs, config)
        self.excitation = nn.Linear(self.fields_width, len(self.field_names))
        self.tower = Tower(self.fields_width, config.tower)
        self.output = nn.Linear(self.tower.width, 1)

    def logit(self, fields: Tensor) -> Tensor:
        """(n,) from the weighted fields."""
        weighted = fields * self.weights(fields).unsqueeze(-1)
        logit: Tensor = self.output(self.tower(weighted.flatten(1)))
        return logit.squeeze(-1)

    def weights(self, fields: Tensor) -> Tensor:
        """(n, F) the fields' weights s, each from all embeddings of the pair."""
        return torch.sigmoid(self.excitation(fields.flatten(1)))

    def importance(self, batch: Batch) -> Tensor:
        """(F,) mean weights over the pairs of a batch, in the order of ``field_names``."""
        users = self.user(batch.user, self.history(batch)).unsqueeze(1)
        return self.weights(self.join(users, self.candidates(batch))).mean(0)
