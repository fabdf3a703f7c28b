"""Explicit interactions of fields: FM's pairwise products, cross networks, self-attention between fields.

Shape letters: n pairs of request and candidate, F fields, d embedding width, x = F * d.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prerank.layers.dense import Dense


def pairwise_products(fields: Tensor) -> Tensor:
    """(n,) sum over all pairs of fields of their dot product, from (n, F, d): FM's second order (Rendle, ICDM 2010)."""
    summed = fields.sum(-2)
    return (summed.square().sum(-1) - fields.square().sum((-1, -2))) / 2


class CrossVector(nn.Module):
    """x_0 (x_l . w) + b + x_l: DCN's layer (Wang et al., ADKDD 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Linear(width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """(n, x) from the network's input and the layer's."""
        crossed: Tensor = first * self.weight(x) + self.bias + x
        return crossed


class CrossMatrix(nn.Module):
    """x_0 * (W x_l + b) + x_l, with W = U V^T where a rank is given: DCN-v2's layer (Wang et al., WWW 2021)."""

    def __init__(self, width: int, rank: int | None) -> None:
        super().__init__()
        self.weight: nn.Module = Dense(width, width)
        if rank is not None:
            self.weight = nn.Sequential(Dense(width, rank, bias=False), Dense(rank, width))

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """(n, x) from the network's input and the layer's."""
        crossed: Tensor = first * self.weight(x) + x
        return crossed


class FieldAttention(nn.Module):
    """Fields attend to fields (AutoInt; Song et al., CIKM 2019): no 1/sqrt(d), a projected residual, ReLU."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.width = heads * head_width
        self.query, self.key, self.value, self.residual = (Dense(width, self.width, bias=False) for _ in range(4))

    def forward(self, fields: Tensor) -> Tensor:
        """(n, F, d) to (n, F, heads * head width)."""
        query, key, value = (
            projection(fields).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        attended = torch.softmax(query @ key.transpose(-1, -2), dim=-1) @ value
        joined = attended.transpose(1, 2).flatten(2)
        return torch.relu(joined + self.residual(fields))
