"""Which rows are held out for the test, and which training rows choose the checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerank.data.log import Ints, Rowids, Rows
from prerank.data.protocol import Protocol
from prerank.errors import DataError


def hold_out(users: Rowids, times: Ints, protocol: Protocol) -> NDArray[np.bool_]:
    """(R,) true for test rows, by ``protocol.test``; rows are ordered by user and time.

    Raises:
        DataError: ``test_size`` makes no sense for the kind of split.
    """
    size = protocol.test_size
    if protocol.test == "last":
        if size != int(size):
            raise DataError(f"protocol {protocol.name}: test=last needs a whole number of events, got {size}")
        remaining: Ints = np.searchsorted(users, users, side="right") - np.arange(len(users))
        return remaining <= size
    if protocol.test == "time":
        return np.asarray(times > times.max(initial=0) - size)
    if size >= 1:
        raise DataError(f"protocol {protocol.name}: test={protocol.test} needs a share below 1, got {size}")
    rng = np.random.default_rng([protocol.seed, 2])
    if protocol.test == "users":
        return np.isin(users, _draw(np.unique(users), size, rng))
    return np.isin(np.arange(len(users)), _draw(np.arange(len(users)), size, rng))


def split_validation(rows: Rows, protocol: Protocol) -> tuple[Rows, Rows]:
    """Training and validation rows (FIT sec. 5.1.4: 20 % of the training set).

    A request is split off as a whole, so a positive never parts from its negatives. ``rows`` draws requests,
    which leaves earlier and later rows of one user on both sides; ``users`` and ``time`` (the latest share) do not.
    """
    if protocol.validation_by == "time":
        chosen = np.zeros(len(rows), dtype=bool)
        chosen[np.argsort(rows.times, kind="stable")[len(rows) - round(len(rows) * protocol.validation) :]] = True
    else:
        rng = np.random.default_rng([protocol.seed, 3])
        units = rows.users.astype(np.int64) if protocol.validation_by == "users" else np.arange(len(rows))
        chosen = np.isin(units, _draw(np.unique(units), protocol.validation, rng))
    return rows.take(~chosen), rows.take(chosen)


def _draw(units: NDArray[Any], share: float, rng: np.random.Generator) -> NDArray[Any]:
    """A random share of the units, at least one."""
    return rng.permutation(units)[: max(1, round(len(units) * share))]
