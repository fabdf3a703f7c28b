"""Heads of one side that look at the heads of the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from prerank.layers.dense import Dense


class GatedCrossAttention(nn.Module):
    """U = X + sigmoid(X Wg + b) * (softmax((X Wq)(Y Wk)^T / sqrt(P)) Y Wv) (RankTower, inferred from its description).

    There is no BatchNorm: it would mix the candidates of a request.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = Dense(width, width, bias=False)
        self.key = Dense(width, width, bias=False)
        self.value = Dense(width, width, bias=False)
        self.gate = Dense(width, width)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """(..., H, P) heads X and (..., H', P) heads Y, whose leading dimensions broadcast, to (..., H, P)."""
        similarities = self.query(own) @ self.key(other).transpose(-1, -2) / math.sqrt(own.shape[-1])
        attended = torch.softmax(similarities, dim=-1) @ self.value(other)
        joined: Tensor = own + torch.sigmoid(self.gate(own)) * attended
        return joined
