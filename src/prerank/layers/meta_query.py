"""The item meta matrix: learned prototypes that stand for candidates on the user side (FIT sec. 4.1)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOOR = 0.001
SMOOTHING = 0.05  # of a row's usage, for each batch
RARE = 0.1  # of an even share: a row used less is revived


def temperature(epochs: float, decay_epochs: float) -> float:
    """max(min(1, 1 - steps / threshold), 0.001) with the steps of one epoch as threshold (FIT eq. 23).

    Args:
        epochs: optimiser steps so far, over the steps of an epoch.
        decay_epochs: epochs until the floor is reached; 1 in the paper.
    """
    return max(min(1.0, 1.0 - epochs / decay_epochs), FLOOR)


class MetaQuery(nn.Module):
    """N learned queries of width D and the choice among them for an item.

    The matrix is drawn Kaiming uniform (a = 0); its magnitude matters since Q* is cubic in it. All of it is
    computed in float32: similarities over a temperature of 0.001 leave the range of half precision.
    """

    usage: Tensor

    def __init__(
        self, count: int, width: int, self_attention: bool, keys: Literal["attended", "raw"], revival: bool = False
    ) -> None:
        """Draw the matrix.

        Args:
            count: N.
            width: D, that of the candidate's key.
            self_attention: mix the rows by eq. 5; False is the paper's ablation (Q* := Q).
            keys: whether candidates are compared with Q* (eq. 6) or with Q.
            revival: whether ``revive`` will be called; its state is a buffer, so that a checkpoint holds it.
        """
        super().__init__()
        self.matrix = nn.Parameter(torch.empty(count, width))
        nn.init.kaiming_uniform_(self.matrix)
        self.self_attention = self_attention
        self.keys: Literal["attended", "raw"] = keys
        if revival:
            self.register_buffer("usage", torch.full((count,), 1 / count))

    def group(self) -> Tensor:
        """(N, D) the query group Q* = (Q Q^T) Q (FIT eq. 5)."""
        if not self.self_attention:
            return self.matrix
        with torch.autocast(self.matrix.device.type, enabled=False):
            return (self.matrix @ self.matrix.T) @ self.matrix

    def folded(self) -> MetaQuery:
        """The same query group, computed; for the user side, since keys may be the raw rows."""
        if not self.self_attention:
            return self
        group = self.group().detach()
        fixed = MetaQuery(group.shape[0], group.shape[1], False, self.keys)
        fixed.matrix = nn.Parameter(group, requires_grad=False)
        return fixed

    def index(self, candidates: Tensor) -> Tensor:
        """(...) int64 query index of each (..., D) candidate; the temperature cannot change it (FIT eq. 8)."""
        return self._similarities(candidates).argmax(dim=-1)

    def soft(self, candidates: Tensor, temperature: float) -> Tensor:
        """(..., D) the soft query of each candidate: the softmax mixture of the group (FIT eqs. 6 and 7)."""
        with torch.autocast(self.matrix.device.type, enabled=False):
            weights = torch.softmax(self._similarities(candidates) / temperature, dim=-1)
            return weights @ self.group()

    def hard(self, index: Tensor) -> Tensor:
        """(..., D) the rows of the group at (...) query indices."""
        return F.embedding(index, self.group())

    @torch.no_grad()
    def revive(self, candidates: Tensor) -> None:
        """Put candidates in the place of rows that hardly any candidate chooses; ours, not FIT's.

        ``usage`` follows the share of candidates that choose each row. A row below a tenth of an even share becomes a
        random one of the (R, D) candidates at the mean length of rows, and counts as evenly used from then on.
        """
        count = len(self.matrix)
        shares = torch.bincount(self.index(candidates), minlength=count) / len(candidates)
        self.usage.lerp_(shares, SMOOTHING)
        unused = self.usage < RARE / count
        drawn = candidates[torch.randint(len(candidates), (count,))]
        seeds = F.normalize(drawn.float()) * self.matrix.norm(dim=1).mean()
        self.matrix.copy_(torch.where(unused.unsqueeze(1), seeds, self.matrix))
        self.usage.masked_fill_(unused, 1 / count)

    def _similarities(self, candidates: Tensor) -> Tensor:
        with torch.autocast(self.matrix.device.type, enabled=False):
            keys = self.group() if self.keys == "attended" else self.matrix
            return candidates.float() @ keys.T
