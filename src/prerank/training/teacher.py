"""Distillation: a trained model whose probabilities another one learns to give."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from prerank.batch import Batch
from prerank.models.base import PreRankingModel


@dataclass(frozen=True)
class Teacher:
    """A finished run's model.

    Attributes:
        model: in evaluation mode.
        fingerprint: a hash of its content; a run cannot go on under another teacher.
    """

    model: PreRankingModel
    fingerprint: str

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of (B, C) logits to the probabilities that the teacher serves for the same rows."""
        with torch.no_grad():
            probabilities = torch.sigmoid(self.model(batch))
        return F.binary_cross_entropy_with_logits(logits, probabilities)
