"""Evaluation of a model on one part, always by the served path; the training path only to measure the gap."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prerank.batch import Batch
from prerank.data.loader import EncodedDataset, Loader
from prerank.data.log import Dataset
from prerank.evaluation.metrics import Floats, Ids, Labels, auc, calibration, gauc, graded_ndcg, log_loss, perplexity
from prerank.models.base import Choice, PreRankingModel

BATCH_ROWS = 4096


@dataclass(frozen=True)
class Evaluation:
    """Scores of one part in stored order, and what they amount to.

    Attributes:
        users: (R,) row numbers of the user table.
        labels: (R,).
        logits: (R,) by the served path.
        metrics: names to numbers, JSON-ready.
    """

    users: Ids
    labels: Labels
    logits: Floats
    metrics: dict[str, Any]


def evaluate(
    model: PreRankingModel, data: EncodedDataset, part: str, device: torch.device, *, epochs: float, gap: bool = True
) -> Evaluation:
    """Score a part.

    Args:
        model: in any mode; evaluated in eval mode and left as it was.
        data: the encoded data set.
        part: ``valid`` or ``test`` (or ``train``).
        device: where the model is.
        epochs: how long it was trained; the schedules of its training path depend on it.
        gap: also score by the training path, where the model has one of its own.
    """
    loader = Loader(data, part, BATCH_ROWS)
    paths: dict[str, Callable[[Batch], Tensor]] = {"served": model}
    if gap and type(model).relaxed is not PreRankingModel.relaxed:
        paths["relaxed"] = lambda batch: model.relaxed(batch, epochs)[0]
    scores: dict[str, list[Floats]] = {name: [] for name in paths}
    diagnostics = _Diagnostics()
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in loader.batches():
            moved = batch.to(device)
            for name, path in paths.items():
                scores[name].append(path(moved).double().cpu().numpy().ravel())
            diagnostics.add(model.diagnose(moved, epochs))
    model.train(was_training)
    rows = loader.rows
    users = np.repeat(rows.users.astype(np.int64), rows.items.shape[1])
    labels = np.asarray(rows.labels).ravel()
    logits = np.concatenate(scores["served"])
    metrics = {**summarise(users, labels, logits), **diagnostics.summary()}
    if rows.grades is not None:
        metrics["stage_ndcg"] = _defined(graded_ndcg(rows.grades, logits.reshape(rows.grades.shape)))
    if "relaxed" in scores:
        relaxed = np.concatenate(scores["relaxed"])
        metrics["relaxed_auc"] = _defined(auc(labels, relaxed))
        metrics["relaxed_logloss"] = log_loss(labels, relaxed)
        metrics["auc_gap"] = _defined(auc(labels, relaxed) - auc(labels, logits))
    return Evaluation(users, labels, logits, metrics)


def summarise(users: Ids, labels: Labels, logits: Floats) -> dict[str, Any]:
    """AUC, GAUC, logloss, calibration, with the row count and base rate that they have to be read with.

    A metric that these rows do not define (an AUC of one class) is None.
    """
    return {
        "auc": _defined(auc(labels, logits)),
        "gauc": _defined(gauc(labels, logits, users)),
        "logloss": log_loss(labels, logits),
        "calibration": _defined(calibration(labels, logits)),
        "base_rate": float(labels.mean()),
        "rows": len(labels),
    }


def popularity(dataset: Dataset, part: str) -> Evaluation:
    """The baseline that knows no user: an item's share of positives among its training rows.

    With one sampled negative per positive this orders items by how often they are positives against how often
    they are drawn, so a table that does not beat it has a fault. The logit is smoothed by one row of each class.
    """
    train, rows = dataset.parts["train"], dataset.parts[part]
    size = dataset.items.height
    positives = np.bincount(train.items[train.labels == 1], minlength=size) + 1.0
    negatives = np.bincount(train.items[train.labels == 0], minlength=size) + 1.0
    users = np.repeat(rows.users.astype(np.int64), rows.items.shape[1])
    labels = np.asarray(rows.labels).ravel()
    logits = np.log(positives / negatives)[rows.items.ravel()]
    return Evaluation(users, labels, logits, summarise(users, labels, logits))


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


class _Diagnostics:
    """Running means of what a model reports, and histograms of its choices."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.rows: dict[str, int] = defaultdict(int)
        self.histograms: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor | Choice]) -> None:
        for name, value in values.items():
            if isinstance(value, Choice):
                counts = torch.bincount(value.ids.flatten().cpu(), minlength=value.alternatives)
                self.histograms[name] = self.histograms.get(name, torch.zeros_like(counts)) + counts
            else:
                self.sums[name] += float(value.double().sum())
                self.rows[name] += value.numel()

    def summary(self) -> dict[str, Any]:
        means = {name: total / self.rows[name] for name, total in self.sums.items()}
        choices = {
            name: {
                "used": int((counts > 0).sum()),
                "of": len(counts),
                "perplexity": perplexity(counts.numpy()),
            }
            for name, counts in self.histograms.items()
        }
        return {**means, **choices}
