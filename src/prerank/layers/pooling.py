"""Sums over ragged histories."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from prerank.batch import History


def mean_pool(history: History) -> Tensor:
    """(B, D) the mean of each history's embeddings; zeros where a history is empty."""
    steps = history.steps
    return F.embedding_bag(steps.values, history.table, steps.offsets, mode="mean", include_last_offset=True)


def weighted_sum(history: History, weights: Tensor) -> Tensor:
    """Weighted sums of each history's embeddings, one for each of C sets of weights (FIT eq. 19).

    Args:
        history: B histories with T steps together.
        weights: (T, C).

    Returns:
        (B, C, D); zeros where a history is empty.
    """
    steps = history.steps
    if len(steps.offsets) == 2:  # one request: a plain product, however many queries there are
        return (weights.T @ history.table[steps.values]).unsqueeze(0)
    sums = [
        F.embedding_bag(
            steps.values,
            history.table,
            steps.offsets,
            mode="sum",
            per_sample_weights=weights[:, query].contiguous(),
            include_last_offset=True,
        )
        for query in range(weights.shape[1])
    ]
    return torch.stack(sums, dim=1)
