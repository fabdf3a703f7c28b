"""Ranking and calibration metrics from logits and labels, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.uint8]
Ids = NDArray[np.int64]


def auc(labels: Labels, scores: Floats) -> float:
    """P(a positive scores above a negative), ties count one half; NaN without both classes (FIT sec. 5.1.2)."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    above = _mean_ranks(scores)[labels == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def gauc(labels: Labels, scores: Floats, groups: Ids) -> float:
    """The users' AUCs, weighted by their rows; users of one class are left out (DIN sec. 6.2)."""
    order = np.argsort(groups, kind="stable")
    labels, scores, groups = labels[order], scores[order], groups[order]
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    # Ranks within a user: ranks over (user, score) minus the rows of the users before.
    number = np.cumsum(np.r_[0, (groups[1:] != groups[:-1]).astype(np.int64)])
    rows = np.diff(np.r_[starts, len(labels)])
    ranks = _mean_ranks(scores, number) - starts[number]
    positives = np.add.reduceat(labels.astype(np.int64), starts)
    negatives = rows - positives
    above = np.add.reduceat(ranks * labels, starts) - positives * (positives + 1) / 2
    mixed = (positives > 0) & (negatives > 0)
    if not mixed.any():
        return float("nan")
    return float(np.average(above[mixed] / (positives[mixed] * negatives[mixed]), weights=rows[mixed]))


def log_loss(labels: Labels, logits: Floats) -> float:
    """Mean binary cross-entropy, from logits so that no probability has to be clipped."""
    return float(np.mean(np.logaddexp(0.0, logits) - labels * logits))


def calibration(labels: Labels, logits: Floats) -> float:
    """Predicted over observed positives (PCOC); 1 is right, above 1 is too many predicted; NaN without positives."""
    observed = labels.sum()
    return float(sigmoid(logits).sum() / observed) if observed else float("nan")


def relative_improvement(value: float, base: float) -> float:
    """RelaImpr of an AUC over a base AUC, in percent: both counted from 0.5 (FIT sec. 5.1.2)."""
    return ((value - 0.5) / (base - 0.5) - 1) * 100


def graded_ndcg(grades: NDArray[np.uint8], scores: Floats) -> float:
    """The mean NDCG of (R, C) candidates in the order of their scores, gain 2^grade - 1, discount 1 / log2(place + 1).

    Requests whose grades are all 0 are left out; NaN where all are. Of equal scores the later candidate comes first, so
    that a constant scorer does not profit from positives that are stored first.
    """
    gains = np.exp2(grades.astype(np.float64)) - 1
    discounts = 1 / np.log2(np.arange(2, grades.shape[1] + 2))
    places = np.argsort(scores, axis=1, kind="stable")[:, ::-1]
    best = np.sort(gains, axis=1)[:, ::-1] @ discounts
    reached = np.take_along_axis(gains, places, axis=1) @ discounts
    some = best > 0
    return float(np.mean(reached[some] / best[some])) if some.any() else float("nan")


def perplexity(counts: NDArray[np.int64]) -> float:
    """exp of the entropy of a histogram: how many values are in effective use."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(np.exp(-(shares * np.log(shares)).sum()))


def sigmoid(logits: Floats) -> Floats:
    """Probabilities of logits, without overflow for large negative ones."""
    return np.exp(-np.logaddexp(0.0, -logits))


def _mean_ranks(scores: Floats, groups: Ids | None = None) -> Floats:
    """Ranks from 1, ties sharing their mean rank; with groups, in the order (group, score)."""
    order = np.argsort(scores, kind="stable") if groups is None else np.lexsort((scores, groups))
    ordered = scores[order]
    fresh = np.r_[True, ordered[1:] != ordered[:-1]]
    if groups is not None:
        fresh[1:] |= groups[order][1:] != groups[order][:-1]
    starts = np.flatnonzero(fresh)
    stops = np.r_[starts[1:], len(scores)]
    ranks = np.empty(len(scores))
    ranks[order] = ((starts + stops + 1) / 2)[np.cumsum(fresh) - 1]
    return ranks
