"""How sure a difference is: bootstrap over users, whose rows are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from prerank.evaluation.metrics import Floats, Ids, Labels, auc


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
    order = np.argsort(users, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(users[order]) != 0])
    rows = np.split(order, starts[1:])
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        chosen = np.concatenate([rows[user] for user in rng.integers(len(rows), size=len(rows))])
        values.append(statistic([auc(labels[chosen], score[chosen]) for score in scores]))
    return float(np.nanstd(values, ddof=1))
