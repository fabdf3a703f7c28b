"""Metrics against scikit-learn, against sums by hand and against the papers' printed numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from prerank.evaluation.metrics import (
    auc,
    calibration,
    gauc,
    graded_ndcg,
    log_loss,
    perplexity,
    relative_improvement,
    sigmoid,
)

# Few different scores, so that ties are common.
rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(-3, 3).map(float) | st.floats(-50, 50), st.integers(0, 3)),
    min_size=2,
    max_size=40,
)


def arrays(drawn: list[tuple[int, float, int]]) -> tuple[Any, Any, Any]:
    labels, scores, users = zip(*drawn, strict=True)
    return np.array(labels, dtype=np.uint8), np.array(scores, dtype=np.float64), np.array(users, dtype=np.int64)


@settings(deadline=None)
@given(rows)
def test_auc_and_log_loss_equal_scikit_learn(drawn: list[tuple[int, float, int]]) -> None:
    labels, scores, _ = arrays(drawn)
    assume(0 < labels.sum() < len(labels))
    assert auc(labels, scores) == pytest.approx(oracle.roc_auc_score(labels, scores), abs=1e-12)
    moderate = scores / 5
    assert log_loss(labels, moderate) == pytest.approx(oracle.log_loss(labels, sigmoid(moderate)), rel=1e-9)


@settings(deadline=None)
@given(rows)
def test_auc_is_the_share_of_pairs_in_order(drawn: list[tuple[int, float, int]]) -> None:
    labels, scores, _ = arrays(drawn)
    above, below = scores[labels == 1][:, None], scores[labels == 0][None, :]
    if not above.size or not below.size:
        assert np.isnan(auc(labels, scores))
    else:
        assert auc(labels, scores) == pytest.approx(np.mean((above > below) + 0.5 * (above == below)))


@settings(deadline=None)
@given(rows)
def test_gauc_is_the_weighted_mean_of_the_users(drawn: list[tuple[int, float, int]]) -> None:
    labels, scores, users = arrays(drawn)
    total = weight = 0.0
    for user in set(users.tolist()):
        own = users == user
        if 0 < labels[own].sum() < own.sum():
            total += oracle.roc_auc_score(labels[own], scores[own]) * own.sum()
            weight += own.sum()
    if weight:
        assert gauc(labels, scores, users) == pytest.approx(total / weight)
    else:
        assert np.isnan(gauc(labels, scores, users))


def test_gauc_by_hand() -> None:
    labels, scores, users = arrays(
        [
            *((1, 2.0, 7), (0, 1.0, 7)),  # in order: 1, two rows
            *((1, 0.0, 3), (0, 5.0, 3), (0, 0.0, 3), (1, 5.0, 3)),  # half of it: four rows
            (1, 9.0, 5),  # one class: left out
        ]
    )
    assert gauc(labels, scores, users) == pytest.approx((2 * 1 + 4 * 0.5) / 6)


def test_a_constant_score_knows_nothing() -> None:
    labels, scores, users = arrays([(1, 0.3, 0), (0, 0.3, 0), (0, 0.3, 0)])
    assert auc(labels, scores) == gauc(labels, scores, users) == 0.5
    assert auc(labels, -scores) == 0.5


def test_many_rows_do_not_overflow() -> None:
    """Positives times negatives exceed 32 bits, and labels are bytes."""
    labels = np.zeros(200_000, dtype=np.uint8)
    labels[100_000:] = 1
    assert auc(labels, np.arange(200_000.0)) == 1.0
    assert auc(labels, -np.arange(200_000.0)) == 0.0
    assert gauc(labels, np.arange(200_000.0), np.zeros(200_000, dtype=np.int64)) == 1.0


def test_extreme_logits_stay_finite() -> None:
    labels, logits, _ = arrays([(1, 1000.0, 0), (0, -1000.0, 0), (1, -1000.0, 0), (0, 1000.0, 0)])
    assert log_loss(labels[:2], logits[:2]) == 0.0
    assert log_loss(labels, logits) == 500.0
    assert sigmoid(logits).tolist() == [1.0, 0.0, 0.0, 1.0]
    assert calibration(labels, logits) == 1.0


def test_log_loss_of_the_base_rate_is_its_entropy() -> None:
    labels = np.array([1] + [0] * 19, dtype=np.uint8)
    logits = np.full(20, np.log(0.05 / 0.95))
    assert log_loss(labels, logits) == pytest.approx(-(0.05 * np.log(0.05) + 0.95 * np.log(0.95)))


def test_calibration_by_hand() -> None:
    labels = np.array([1, 0, 0, 0], dtype=np.uint8)
    logits = np.log(np.array([0.5, 0.5, 0.2, 0.3]) / (1 - np.array([0.5, 0.5, 0.2, 0.3])))
    assert calibration(labels, logits) == pytest.approx(1.5)
    assert np.isnan(calibration(np.zeros(4, dtype=np.uint8), logits))


@pytest.mark.parametrize(
    ("value", "base", "printed"),
    [  # FIT's Table 1: the columns ML-1M, Electronics, Books and Taobao, against Two-Tower.
        (0.9225, 0.8695, 14.34),
        (0.8598, 0.8441, 4.56),
        (0.9171, 0.8742, 11.46),
        (0.6736, 0.6577, 10.08),
        (0.8784, 0.8695, 2.41),
    ],
)
def test_relative_improvement_is_the_papers(value: float, base: float, printed: float) -> None:
    assert relative_improvement(value, base) == pytest.approx(printed, abs=0.006)
    assert relative_improvement(base, base) == 0.0


def test_perplexity_counts_what_is_in_use() -> None:
    assert perplexity(np.array([5, 5, 5, 5])) == pytest.approx(4)
    assert perplexity(np.array([0, 9, 0])) == pytest.approx(1)
    assert perplexity(np.array([3, 1])) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))


@given(st.integers(0, 10_000))
def test_graded_ndcg_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grades, scores = rng.integers(0, 4, (7, 6)).astype(np.uint8), rng.permutation(42).reshape(7, 6).astype(float)
    some = grades.any(axis=1)
    expected = oracle.ndcg_score((np.exp2(grades) - 1)[some], scores[some])
    assert graded_ndcg(grades, scores) == pytest.approx(expected)


def test_graded_ndcg_of_a_constant_is_that_of_the_worst_order() -> None:
    grades = np.array([[2, 1, 0], [0, 0, 0]], dtype=np.uint8)
    assert graded_ndcg(grades, np.zeros((2, 3))) == pytest.approx(graded_ndcg(grades, np.array([[0.0, 1, 2]] * 2)))
    assert np.isnan(graded_ndcg(grades[1:], np.zeros((1, 3))))
