"""AutoDis: a number chooses softly among a few embeddings (Guo et al., KDD 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AutoDisWeights(nn.Module):
    """The weights of H embeddings for a number x: softmax(x^ / tau), x^ = W h + alpha h, h = LeakyReLU(w x).

    The embeddings themselves are rows of the field's table. As nothing here has a bias, all numbers of one sign share
    one direction of x^, so numbers have to come with both signs: scaled to [0, 1], as is usual, a logistic
    regression on AutoDis weights did not find a bump in the middle of the range (AUC 0.50), scaled to [-1, 1] it does.
    """

    def __init__(self, embeddings: int, temperature: float) -> None:
        """Make w, W and alpha.

        Args:
            embeddings: H.
            temperature: tau.
        """
        super().__init__()
        self.temperature = temperature
        self.spread = nn.Parameter(torch.randn(embeddings))
        self.mix = nn.Linear(embeddings, embeddings, bias=False)
        self.skip = nn.Parameter(torch.ones(()))

    def forward(self, numbers: Tensor) -> Tensor:
        """(n, H) weights of n numbers from -1 to 1; each row sums to 1."""
        h = F.leaky_relu(numbers.unsqueeze(1) * self.spread)
        return torch.softmax((self.mix(h) + self.skip * h) / self.temperature, dim=-1)
