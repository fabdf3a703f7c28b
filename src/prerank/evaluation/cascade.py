"""What a pre-ranker is for: how much of a later ranker's choice it lets through, from matrices of scores.

Row u of every (U, K) matrix is one user's K candidates, the same ones in every matrix. Equal scores keep the
candidates' order, as in an answer of ``PreRanker``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prerank.evaluation.metrics import Floats, Ids

Flags = NDArray[np.bool_]


def ranks(scores: Floats) -> Ids:
    """(U, K) the place of each candidate in its user's order, 0 for the best."""
    order = np.argsort(-scores, axis=1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(scores.shape[1])[None, :], axis=1)
    return places


def recall(judge: Ids, ranker: Ids, top: int, cut: int) -> Floats:
    """(U,) the share of the judge's best ``top`` candidates that are among the ranker's best ``cut``.

    Args:
        judge: (U, K) ranks by the judge.
        ranker: (U, K) ranks by the model in question.
        top: m, at most K.
        cut: k, how many candidates the model lets through.
    """
    kept: Floats = ((judge < top) & (ranker < cut)).sum(axis=1) / top
    return kept


def ndcg(judge: Ids, ranker: Ids, top: int) -> Floats:
    """(U,) NDCG of the ranker's order at ``top``; the judge's best candidate is worth m, its next m - 1, ..., others 0.

    A gain by place depends on the judge's order alone, not on how its logits are scaled.
    """
    discounts = 1 / np.log2(np.arange(top) + 2)
    gains = np.maximum(top - judge, 0)
    reached = np.where(ranker < top, gains * discounts[np.minimum(ranker, top - 1)], 0).sum(axis=1)
    best: float = (np.arange(top, 0, -1) * discounts).sum()
    share: Floats = reached / best
    return share


def let_through(ranker: Ids, target: Ids, cut: int) -> Flags:
    """(U,) whether the candidate at each user's (U,) place ``target`` is among the best ``cut``; -1 is no candidate."""
    there: Flags = np.take_along_axis(ranker, np.maximum(target, 0)[:, None], axis=1)[:, 0] < cut
    kept: Flags = there & (target >= 0)
    return kept


def shown(judge: Ids, ranker: Ids, target: Ids, cut: int, top: int) -> Flags:
    """(U,) whether the target is among the best ``top`` by the judge of the ``cut`` that the ranker lets through."""
    own = np.take_along_axis(judge, np.maximum(target, 0)[:, None], axis=1)
    ahead = ((ranker < cut) & (judge < own)).sum(axis=1)
    seen: Flags = let_through(ranker, target, cut) & (ahead < top)
    return seen


def mean_and_error(values: Floats | Flags) -> dict[str, float]:
    """The mean of (U,) values, and its standard error over users."""
    numbers = np.asarray(values, dtype=np.float64)
    error = numbers.std(ddof=1) / np.sqrt(len(numbers)) if len(numbers) > 1 else 0.0
    return {"mean": float(numbers.mean()), "se": float(error)}
