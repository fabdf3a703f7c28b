"""Requests of a log that says how far candidates came: recalled, shown, clicked (RankTower's full-stage samples)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prerank.data.log import Ints, Rowids
from prerank.data.sampling import NegativeSampler
from prerank.errors import DataError

Grades = NDArray[np.uint8]


@dataclass(frozen=True)
class Staged:
    """The positives of a log, each with candidates that came less far.

    Attributes:
        places: (R,) the events that are positives.
        items: (R, C) the positive, ``per_stage`` events of its request from each lower stage, the lowest one first,
            then random items.
        grades: (R, C) how far each came: 0 for random items, 1 for the lowest stage of the log, and so on.
    """

    places: Ints
    items: Rowids
    grades: Grades


def staged(
    users: Rowids,
    items: Rowids,
    times: Ints,
    stages: Ints,
    sampler: NegativeSampler,
    per_stage: int,
    negatives: int,
    rng: np.random.Generator,
) -> Staged:
    """Draw the candidates of every event that came furthest.

    A user's events of one time are a request. Where it has fewer than ``per_stage`` events of a stage they repeat;
    where it has none, random items stand in, with the grade of random items.

    Args:
        users, items, times, stages: (E,) the events, ordered by user and time.
        sampler: of random items.
        per_stage: candidates from each lower stage.
        negatives: random items besides.
        rng: draws them.

    Raises:
        DataError: all events have the same stage.
    """
    levels = np.unique(stages)
    if len(levels) < 2:
        raise DataError(f"events: every stage is {levels[0]}; labels=stages needs at least two")
    fresh = np.r_[True, (users[1:] != users[:-1]) | (times[1:] != times[:-1])]
    requests = np.cumsum(fresh)
    places = np.flatnonzero(stages == levels[-1])
    drawn = [items[places][:, None]]
    grades = [np.full((len(places), 1), len(levels), dtype=np.uint8)]
    for grade, level in enumerate(levels[:-1], start=1):
        of_level = np.flatnonzero(stages == level)
        first, last = (np.searchsorted(requests[of_level], requests[places], side) for side in ("left", "right"))
        count = (last - first)[:, None]
        start = (rng.random((len(places), 1)) * count).astype(np.int64)
        chosen = first[:, None] + (start + np.arange(per_stage)) % np.maximum(count, 1)
        random = sampler.draw(users[places], items[places], per_stage, rng)
        drawn.append(np.where(count > 0, items[of_level].take(chosen, mode="clip"), random))
        grades.append(np.where(count > 0, grade, 0).astype(np.uint8).repeat(per_stage, axis=1))
    drawn.append(sampler.draw(users[places], items[places], negatives, rng))
    grades.append(np.zeros((len(places), negatives), dtype=np.uint8))
    return Staged(places, np.concatenate(drawn, axis=1), np.concatenate(grades, axis=1))
