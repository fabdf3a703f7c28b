"""Scoring until a time: the first of a request's candidates, as many as there is time for."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from prerank.publish.plan.base import Floats, Score

STEP = 256  # candidates between two looks at the clock


def scored_until(score: Score, count: int, until: float) -> Floats:
    """Logits of the first n of K candidates. The first step is always taken, so that there is an answer at all.

    Args:
        score: what scores them.
        count: K.
        until: when to stop, on the clock of ``perf_counter``; a step that would end later, going by how long the one
            before it took, is not begun.

    Returns:
        (n,) logits, those that scoring all would give.
    """
    parts: list[Floats] = []
    before = perf_counter()
    for start in range(0, count, STEP):
        parts.append(score(slice(start, min(start + STEP, count))))
        now = perf_counter()
        if now + (now - before) > until:
            break
        before = now
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
