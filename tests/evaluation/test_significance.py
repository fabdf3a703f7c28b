"""The bootstrap over users, on cases whose standard error is known; the t-test over seeds by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from prerank.evaluation.metrics import auc
from prerank.evaluation.significance import _SortedRows, standard_error, welch


def pairs(users: int, right: int, copies: int = 1) -> tuple[Any, Any, Any]:
    """Users with one positive and one negative, the positive above every negative for so many of them.

    The AUC over all rows is their share, so its standard error is that of a share.
    """
    labels = np.tile(np.array([1, 0], dtype=np.uint8), users)
    scores = np.ones(2 * users)
    scores[::2] = np.where(np.arange(users) < right, 2.0, 0.0)
    owners = np.repeat(np.arange(users), 2)
    return np.repeat(owners, copies), np.repeat(labels, copies), np.repeat(scores, copies)


def first(values: list[float]) -> float:
    return values[0]


@pytest.mark.parametrize("copies", [1, 7])
def test_standard_error_of_a_share_of_users(copies: int) -> None:
    """Copies of a user's rows tell nothing new, so they make the error no smaller."""
    users, labels, scores = pairs(400, 120, copies)
    assert auc(labels, scores) == pytest.approx(0.3)
    error = standard_error(users, labels, [scores], first, draws=2000)
    assert error == pytest.approx(np.sqrt(0.3 * 0.7 / 400), rel=0.08)


def test_order_of_rows_and_names_of_users_do_not_matter() -> None:
    users, labels, scores = pairs(50, 20)
    order = np.random.default_rng(0).permutation(100)
    one = standard_error(users, labels, [scores], first)
    assert standard_error(users[order] * 17 + 3, labels[order], [scores[order]], first) == pytest.approx(one)


def test_differences_are_paired() -> None:
    users, labels, scores = pairs(200, 100)

    def difference(values: list[float]) -> float:
        return values[1] - values[0]

    assert standard_error(users, labels, [scores, scores.copy()], difference) == 0.0
    better = scores.copy()
    better[2 * 100 : 2 * 120 : 2] = 2.0  # 20 of 200 users change sides, always for the better
    error = standard_error(users, labels, [scores, better], difference, draws=2000)
    assert error == pytest.approx(np.sqrt(0.1 * 0.9 / 200), rel=0.08)
    assert error < standard_error(users, labels, [scores], first)


def test_the_seed_decides() -> None:
    users, labels, scores = pairs(40, 11)
    assert standard_error(users, labels, [scores], first) == standard_error(users, labels, [scores], first)
    assert standard_error(users, labels, [scores], first, seed=1) != standard_error(users, labels, [scores], first)


def test_samples_of_one_class_are_left_out() -> None:
    labels, scores = np.array([1, 0, 1], dtype=np.uint8), np.array([2.0, 1.0, 0.0])
    assert np.isfinite(standard_error(np.arange(3), labels, [scores], first))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=20),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_weights_equal_repetitions(rows: list[tuple[int, int, int]], times: list[int]) -> None:
    users, labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    weights = np.array(times)
    repeated = np.repeat(np.arange(len(rows)), weights[users])
    found = _SortedRows(users, labels.astype(np.uint8), scores.astype(np.float64)).auc(weights)
    expected = auc(labels[repeated].astype(np.uint8), scores[repeated].astype(np.float64)) if len(repeated) else np.nan
    assert found == pytest.approx(expected, nan_ok=True)


def test_welch_by_hand_and_as_scipy_has_it() -> None:
    """Means 3 and 5, squared errors 1/3 and 4/3: t = -2 / sqrt(5/3); degrees (5/3)^2 / (1/18 + 8/9)."""
    first, second = [2.0, 3.0, 4.0], [3.0, 5.0, 7.0]
    found = welch(first, second)
    assert found["t"] == pytest.approx(-2 / math.sqrt(5 / 3))
    assert found["degrees"] == pytest.approx((25 / 9) / (1 / 18 + 8 / 9))
    assert found["p"] == pytest.approx(ttest_ind(first, second, equal_var=False).pvalue)
    assert welch(second, first)["p"] == pytest.approx(found["p"])


@pytest.mark.parametrize("other", [[1.0], [1.0, 1.0]])
def test_welch_needs_two_seeds_that_vary(other: list[float]) -> None:
    assert welch([1.0, 1.0], other) == {"t": None, "degrees": None, "p": None}
