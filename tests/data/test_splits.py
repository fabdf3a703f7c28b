"""Which rows are held out, against counts and orders known beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prerank.data.build import build
from prerank.data.log import PARTS, Ints, Rowids
from prerank.data.protocol import Protocol, preset
from prerank.data.sources.synthetic import checkerboard
from prerank.data.splits import choose_validation, hold_out

# Rows of users 0 (four), 2 (one), 5 (three) and 6 (two), ordered by user and time.
USERS: Rowids = np.array([0, 0, 0, 0, 2, 5, 5, 5, 6, 6], dtype=np.int32)
TIMES: Ints = np.array([10, 20, 30, 30, 5, 7, 21, 22, 1, 30])


def places(mask: Any) -> list[int]:
    assert mask.dtype == np.bool_
    assert mask.shape == USERS.shape
    return [int(place) for place in np.flatnonzero(mask)]


@pytest.mark.parametrize(
    ("size", "expected"), [(1, [3, 4, 7, 9]), (2, [2, 3, 4, 6, 7, 8, 9]), (4, list(range(10))), (99, list(range(10)))]
)
def test_last_rows_of_each_user(size: int, expected: list[int]) -> None:
    assert places(hold_out(USERS, TIMES, Protocol(test_size=size))) == expected


@pytest.mark.parametrize(
    ("size", "expected"), [(1, [2, 3, 9]), (0.5, [2, 3, 9]), (9, [2, 3, 7, 9]), (9.5, [2, 3, 6, 7, 9])]
)
def test_last_seconds_of_the_log(size: float, expected: list[int]) -> None:
    for shift in (0, -1000, 10**18):  # also before 1970, and in nanoseconds
        assert places(hold_out(USERS, TIMES + shift, Protocol(test="time", test_size=size))) == expected


def test_a_share_of_rows_and_of_users() -> None:
    rows = places(hold_out(USERS, TIMES, Protocol(test="rows", test_size=0.3)))
    assert len(rows) == 3
    chosen = hold_out(USERS, TIMES, Protocol(test="users", test_size=0.5))
    assert len(np.unique(USERS[chosen])) == 2
    assert not np.isin(USERS[~chosen], USERS[chosen]).any()
    assert len(places(hold_out(USERS, TIMES, Protocol(test="rows", test_size=0.001)))) == 1  # at least one


def test_the_seed_draws() -> None:
    def drawn(seed: int, test: Any = "rows") -> list[int]:
        return places(hold_out(USERS, TIMES, Protocol(test=test, test_size=0.5, seed=seed)))

    assert drawn(3) == drawn(3)
    assert len({tuple(drawn(seed)) for seed in range(20)}) > 10
    assert len({tuple(drawn(seed, "users")) for seed in range(20)}) == 6  # pairs out of four users


def test_random_rows_are_equally_likely() -> None:
    often = sum(hold_out(USERS, TIMES, Protocol(test="rows", test_size=0.3, seed=seed)) for seed in range(2000))
    assert np.abs(often / 2000 - 0.3).max() < 4 * np.sqrt(0.3 * 0.7 / 2000)


@settings(deadline=None)
@given(st.integers(0, 40), st.floats(0.05, 0.95), st.sampled_from(["rows", "users", "time"]))
def test_validation_takes_its_share(count: int, share: float, by: Any) -> None:
    users = np.sort(np.arange(count) % 7).astype(np.int32)
    times = np.arange(count)[::-1] * 3
    chosen = choose_validation(users, times, Protocol(validation=share, validation_by=by))
    units = 7 if by == "users" and count > 7 else count
    if count == 0:
        assert not len(chosen)
    elif by == "users":
        assert len(np.unique(users[chosen])) == max(1, round(share * units))
        assert not np.isin(users[~chosen], users[chosen]).any()
    else:
        assert chosen.sum() == max(1, round(share * units))
    if by == "time" and chosen.any() and not chosen.all():
        assert times[chosen].min() > times[~chosen].max()


def test_nothing_to_split() -> None:
    nobody: Rowids = np.zeros(0, dtype=np.int32)
    never: Ints = np.zeros(0, dtype=np.int64)
    for test, size in (("last", 1.0), ("users", 0.5), ("rows", 0.5), ("time", 9.0)):
        assert not len(hold_out(nobody, never, Protocol.model_validate({"test": test, "test_size": size})))


def test_a_fifth_of_the_training_pairs_validates() -> None:
    dataset = build(checkerboard(users=50, items=80, events_per_user=12), preset("din"))
    sizes = [len(dataset.parts[part]) for part in PARTS]
    assert sizes == [400, 100, 50]  # 11 pairs a user, the last for the test, a fifth of the other 500
    for part in PARTS:
        assert dataset.parts[part].items.shape[1] == 2
        assert (dataset.parts[part].labels == [1, 0]).all()


def test_validation_by_users_and_by_time() -> None:
    log = checkerboard(users=50, items=80, events_per_user=12)
    by_users = build(log, preset("din", ["validation_by=users"])).parts
    assert not np.isin(by_users["valid"].users, by_users["train"].users).any()
    assert len(by_users["valid"]) == 10 * 10
    by_time = build(log, preset("din", ["validation_by=time"])).parts
    assert by_time["valid"].times.min() > by_time["train"].times.max()
    assert len(by_time["valid"]) == 100
