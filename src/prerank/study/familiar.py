"""Whether test negatives that a model met in training are what it ranks well.

A user's sampled negatives are items without any event of the user, later ones included, so that a test positive is
never among those of training and a test negative may be. Where it often is, a model could know it by heart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prerank.data.candidates import Candidates
from prerank.data.log import Dataset
from prerank.evaluation.evaluate import Evaluation
from prerank.evaluation.metrics import auc
from prerank.training.config import RunConfig


def familiar_negatives(dataset: Dataset, config: RunConfig, epochs: int, test: Evaluation) -> dict[str, Any]:
    """AUC against the test negatives that their user had as a negative in training, and against all others.

    Args:
        dataset: with sampled labels.
        config: of the run.
        epochs: after which its weights were taken.
        test: its scores of the test part.

    Returns:
        ``share`` of the test negatives that are familiar, ``auc_familiar`` and ``auc_unfamiliar``, each with all
        positives and None where there is no such negative.
    """
    settings, stride = config.training, dataset.items.height
    shown = Candidates(dataset, "train", config.seed, settings.fresh_negatives, settings.negatives)
    users = np.asarray(shown.rows.users).astype(np.int64)[:, None]
    met = [users * stride + shown.of(epoch)[:, 1:] for epoch in range(epochs if settings.fresh_negatives else 1)]
    items = np.asarray(dataset.parts["test"].items).ravel()
    negative = test.labels == 0
    familiar = negative & np.isin(test.users * stride + items, np.concatenate(met, axis=None))

    def against(chosen: Any) -> float | None:
        some = (test.labels == 1) | chosen
        return auc(test.labels[some], test.logits[some]) if chosen.any() else None

    return {
        "share": float(familiar.sum() / negative.sum()),
        "auc_familiar": against(familiar),
        "auc_unfamiliar": against(negative & ~familiar),
    }
