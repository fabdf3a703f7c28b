"""A mean of the history that knows which behaviours are recent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prerank.batch import History
from prerank.layers.blocks import request_blocks
from prerank.layers.embedding import take_rows
from prerank.layers.pooling import weighted_sum


class RecencyPool(nn.Module):
    """A learned weight for each place in the history, counted from its end; ours, not the papers'.

    The weights are the softmax of one logit a place, over the places that a history has. So the result keeps the
    scale of a mean whatever the length, and with all logits at zero, as they start, it is the mean.
    """

    def __init__(self, positions: int) -> None:
        """``positions``: places with a logit of their own, the most recent first; earlier ones share the last."""
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(positions))

    def forward(self, history: History) -> Tensor:
        """(B, D) the weighted mean of each history's embeddings; zeros where a history is empty."""
        steps, last = history.steps, len(self.logits) - 1
        with torch.autocast(self.logits.device.type, enabled=False):
            shares = self.logits.softmax(0)
            totals = shares.cumsum(0)[(steps.lengths - 1).clamp(0, last)]
            weights = shares[steps.from_end.clamp(max=last)] / totals[steps.owners]
            past = take_rows(history.table.to(shares.dtype), steps.values)
            return weighted_sum(past, weights, request_blocks(steps, 1, past.shape[1]), 1)[0]
