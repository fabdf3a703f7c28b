"""How sure a difference is: over test users by bootstrap, whose rows are not independent; over seeds by t-test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import import_module

import numpy as np

from prerank.errors import PrerankError
from prerank.evaluation.metrics import Floats, Ids, Labels


def standard_error(
    users: Ids,
    labels: Labels,
    scores: Sequence[Floats],
    statistic: Callable[[list[float]], float],
    *,
    draws: int = 200,
    seed: int = 0,
) -> float:
    """Standard error of a statistic of several models' AUCs on the same rows.

    Users are drawn with replacement, with all of their rows, the same ones for every model.

    Args:
        users: (R,) group of each row.
        labels: (R,).
        scores: one (R,) array of scores a model.
        statistic: from the models' AUCs to a number, for example their difference.
        draws: bootstrap samples.
        seed: of the draws.
    """
    distinct, places = np.unique(users, return_inverse=True)
    models = [_SortedRows(places, labels, score) for score in scores]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        times_drawn = np.bincount(rng.integers(len(distinct), size=len(distinct)), minlength=len(distinct))
        values.append(statistic([model.auc(times_drawn) for model in models]))
    return float(np.nanstd(values, ddof=1))


def welch(first: Sequence[float], second: Sequence[float]) -> dict[str, float | None]:
    """Welch's two-sided t-test of two means over seeds, which are not paired and need not vary alike.

    Returns:
        ``t``, ``degrees`` of freedom (Satterthwaite's) and ``p``; None where a side has one seed, or neither varies.

    Raises:
        PrerankError: SciPy is not installed.
    """
    if min(len(first), len(second)) < 2:
        return dict.fromkeys(("t", "degrees", "p"))
    errors = [float(np.var(side, ddof=1)) / len(side) for side in (first, second)]
    if not sum(errors):
        return dict.fromkeys(("t", "degrees", "p"))
    t = float(np.mean(first) - np.mean(second)) / math.sqrt(sum(errors))
    sides = zip(errors, (first, second), strict=True)
    degrees = sum(errors) ** 2 / sum(error**2 / (len(side) - 1) for error, side in sides)
    try:
        below = import_module("scipy.special").stdtr
    except ModuleNotFoundError:
        raise PrerankError("t-tests need SciPy; install it with: pip install 'prerank[plots]'") from None
    return {"t": t, "degrees": degrees, "p": float(2 * below(degrees, -abs(t)))}


class _SortedRows:
    """Rows sorted by score once, so that the AUC of every sample of users takes no sorting."""

    def __init__(self, users: Ids, labels: Labels, scores: Floats) -> None:
        order = np.argsort(scores)
        self.users, self.positive = users[order], labels[order] == 1
        ordered = scores[order]
        self.starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])

    def auc(self, times_drawn: Ids) -> float:
        """AUC with each row as often as its user was drawn; ties count one half."""
        weights = times_drawn[self.users]
        rows = np.add.reduceat(weights, self.starts)
        positives = np.add.reduceat(weights * self.positive, self.starts)
        negatives = rows - positives
        pairs = float(positives.sum()) * float(negatives.sum())
        below = np.cumsum(negatives) - negatives / 2
        return float((positives * below).sum() / pairs) if pairs else float("nan")
