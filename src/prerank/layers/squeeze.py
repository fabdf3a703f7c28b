"""Weights of a side's fields: squeeze each to a number, excite, re-weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LightSE(nn.Module):
    """k = softmax(W z + b) with z the mean of each field's embedding; field i becomes k_i e_i (IntTower eqs. 3 to 5).

    ``compatible`` is the form of IntTower's code: e_i + k_i e_i, and no b.
    """

    def __init__(self, fields: int, *, compatible: bool = False) -> None:
        super().__init__()
        self.fields = fields
        self.excite = nn.Linear(fields, fields, bias=not compatible)
        self.compatible = compatible

    def forward(self, x: Tensor) -> Tensor:
        """(R, F * d) to (R, F * d)."""
        embedded: Tensor = x.unflatten(-1, (self.fields, -1))
        weights = torch.softmax(self.excite(embedded.mean(dim=-1)), dim=-1).unsqueeze(-1)
        weighted: Tensor = embedded * (1 + weights if self.compatible else weights)
        return weighted.flatten(-2)


class SENet(nn.Module):
    """k = sigmoid(W2 relu(W1 z + b1) + b2), the squeeze and excitation that Light-SE is compared with.

    The hidden layer has half as many units as there are fields.
    """

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.fields = fields
        hidden = max(1, fields // 2)
        first = nn.Linear(fields, hidden)
        nn.init.zeros_(first.bias)  # embeddings start near zero: a negative bias would keep its unit off for good
        self.excite = nn.Sequential(first, nn.ReLU(), nn.Linear(hidden, fields), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(R, F * d) to (R, F * d)."""
        embedded: Tensor = x.unflatten(-1, (self.fields, -1))
        weights: Tensor = self.excite(embedded.mean(dim=-1))
        return (embedded * weights.unsqueeze(-1)).flatten(-2)
