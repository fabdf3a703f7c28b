"""The optimiser of a run: Adam, with decoupled decay of embedding tables where it is asked for."""

from __future__ import annotations

import torch

from prerank.layers.embedding import embedding_tables
from prerank.models.base import PreRankingModel
from prerank.training.config import TrainingConfig


def make_optimiser(model: PreRankingModel, settings: TrainingConfig, *, fused: bool) -> torch.optim.Optimizer:
    """Adam; with ``embedding_decay`` AdamW, which shrinks embedding tables apart from their gradients."""
    rate, decay = settings.learning_rate, settings.embedding_decay
    if not decay:
        return torch.optim.Adam(model.parameters(), lr=rate, fused=fused)
    tables = embedding_tables(model)
    rest = [parameter for parameter in model.parameters() if all(parameter is not table for table in tables)]
    groups = [{"params": tables, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, fused=fused)
