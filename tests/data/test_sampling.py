"""Negatives: unseen, uniform or by popularity, decided by the generator."""

from __future__ import annotations

import numpy as np
import pytest

from prerank.data.log import Rowids
from prerank.data.sampling import NegativeSampler
from prerank.errors import DataError


def ids(*values: int) -> Rowids:
    return np.array(values, dtype=np.int32)


def chi_square(counts: np.ndarray[tuple[int], np.dtype[np.int64]], shares: list[float]) -> float:
    expected = np.array(shares) * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def test_uniform_over_what_the_user_never_touched() -> None:
    # User 3 touched items 0 and 4, user 0 item 2 (twice); items 1 and 5 are not in the catalogue.
    sampler = NegativeSampler(ids(3, 0, 3, 0), ids(4, 2, 0, 2), ids(0, 2, 3, 4, 6), "catalogue")
    users = np.repeat(ids(3, 0, 7), 2000)
    drawn = sampler.draw(users, np.repeat(ids(4, 2, 3), 2000), 3, np.random.default_rng(0))
    assert drawn.shape == (6000, 3)
    assert drawn.dtype == np.int32
    for user, unseen in ((3, [2, 3, 6]), (0, [0, 3, 4, 6]), (7, [0, 2, 3, 4, 6])):
        counts = np.bincount(drawn[users == user].ravel(), minlength=7)
        assert np.flatnonzero(counts).tolist() == unseen
        # The 99.99 % quantile of chi-square with 4 degrees of freedom is 23.5.
        assert chi_square(counts[unseen], [1 / len(unseen)] * len(unseen)) < 23.5


def test_events_are_proportional_to_popularity_and_only_differ_from_the_target() -> None:
    items = np.repeat(ids(0, 1, 2, 3), [10, 20, 30, 40])
    sampler = NegativeSampler(np.zeros(100, dtype=np.int32), items, ids(0, 1, 2, 3), "events")
    drawn = sampler.draw(np.zeros(8000, dtype=np.int32), np.full(8000, 2, dtype=np.int32), 1, np.random.default_rng(1))
    counts = np.bincount(drawn.ravel(), minlength=4)
    assert counts[2] == 0
    assert chi_square(counts[[0, 1, 3]], [1 / 7, 2 / 7, 4 / 7]) < 18.4  # 99.99 %, 2 degrees of freedom


def test_the_generator_decides() -> None:
    sampler = NegativeSampler(ids(0, 1), ids(0, 1), ids(*range(50)), "catalogue")
    users, positives = np.repeat(ids(0, 1), 40), np.repeat(ids(0, 1), 40)
    first, again, other = (sampler.draw(users, positives, 2, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert (first == again).all()
    assert (first != other).any()


def test_the_only_unseen_item_is_found() -> None:
    sampler = NegativeSampler(
        np.zeros(99, dtype=np.int32), np.arange(99, dtype=np.int32), ids(*range(100)), "catalogue"
    )
    assert (sampler.draw(ids(0, 0), ids(5, 6), 4, np.random.default_rng(0)) == 99).all()


def test_large_tables_do_not_overflow() -> None:
    user, last = 3_000_000, 2**31 - 2
    sampler = NegativeSampler(ids(user, user), ids(last, 3), ids(3, last, 7), "catalogue")
    assert (sampler.draw(ids(user), ids(3), 50, np.random.default_rng(0)) == 7).all()


def test_nothing_left_to_draw() -> None:
    with pytest.raises(
        DataError, match=r"user in row 3 of the user table has events with all 2 items; .*negatives_from"
    ):
        NegativeSampler(ids(2, 2, 0, 2), ids(1, 0, 0, 0), ids(0, 1), "catalogue")
    for source in ("catalogue", "events"):
        with pytest.raises(DataError, match="items: 1 with events; sampling negatives needs at least two"):
            NegativeSampler(ids(0), ids(0), ids(0), source)


def test_no_rows_no_negatives() -> None:
    sampler = NegativeSampler(ids(0), ids(0), ids(0, 1), "catalogue")
    assert sampler.draw(ids(), ids(), 2, np.random.default_rng(0)).shape == (0, 2)
