"""Which rows are held out for the test, and which training rows choose the checkpoint."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prerank.data.log import Ints, Rowids
from prerank.data.protocol import Protocol

Mask = NDArray[np.bool_]


def hold_out(users: Rowids, times: Ints, protocol: Protocol) -> Mask:
    """(R,) true for test rows, by ``protocol.test``; rows are ordered by user and time."""
    size, rng = protocol.test_size, np.random.default_rng([protocol.seed, 2])
    match protocol.test:
        case "last":
            stops: Ints = np.cumsum(np.bincount(users))
            return np.asarray(np.arange(len(users)) >= stops[users] - int(size))
        case "time":
            return np.asarray(times.max(initial=np.iinfo(np.int64).min) - times < size)
        case "users":
            return _draw_groups(users, size, rng)
        case "rows":
            return _draw(len(users), size, rng)


def choose_validation(users: Rowids, times: Ints, protocol: Protocol) -> Mask:
    """(R,) true for the training requests that validate (FIT sec. 5.1.4: 20 % of the training set).

    A request is split off as a whole, so a positive never parts from its negatives. ``rows`` draws requests,
    which leaves earlier and later rows of one user on both sides; ``users`` and ``time`` (the latest share) do not.
    """
    rng = np.random.default_rng([protocol.seed, 3])
    match protocol.validation_by:
        case "rows":
            return _draw(len(users), protocol.validation, rng)
        case "users":
            return _draw_groups(users, protocol.validation, rng)
        case "time":
            return _mask(len(times), np.argsort(times, kind="stable")[-_count(len(times), protocol.validation) :])


def _draw(count: int, share: float, rng: np.random.Generator) -> Mask:
    """True for a random share of so many things."""
    return _mask(count, rng.permutation(count)[: _count(count, share)])


def _draw_groups(users: Rowids, share: float, rng: np.random.Generator) -> Mask:
    """True for all rows of a random share of users."""
    distinct, places = np.unique(users, return_inverse=True)
    return _draw(len(distinct), share, rng)[places]


def _count(total: int, share: float) -> int:
    return max(1, round(total * share))


def _mask(count: int, places: Ints) -> Mask:
    mask = np.zeros(count, dtype=bool)
    mask[places] = True
    return mask
