"""Coders of numbers by hand: buckets, standard scores, ranks; what is missing, what the training part did not have."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerank.data.numbers import Buckets, Ranks, Scale, fit_numbers, restore_numbers
from prerank.schema import Field, Form

INF, NAN = float("inf"), float("nan")
NOTHING = [pl.Series([NAN, INF]), pl.Series([], dtype=pl.Float64)]


def counts(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def ones(values: pl.Series) -> Any:
    return np.ones(len(values), dtype=np.int64)


def test_buckets_by_hand() -> None:
    buckets = Buckets.fit(pl.Series([0.0, 10.0, 20.0, 30.0, 40.0, 1000.0]), counts(1, 1, 1, 1, 1, 0), 4)
    assert buckets.edges.tolist() == [10.0, 20.0, 30.0]
    assert buckets.size == 5
    numbers = np.array([-INF, 9.9, 10.0, 19.9, 20.0, 30.0, INF, NAN])
    assert buckets.encode(numbers).tolist() == [1, 1, 2, 2, 3, 4, 4, 0]


def test_equal_quantiles_are_one_edge() -> None:
    buckets = Buckets.fit(pl.Series([5.0] * 99 + [6.0]), np.ones(100, dtype=np.int64), 20)
    assert buckets.edges.tolist() == [5.0]
    assert buckets.encode(np.array([4.0, 5.0, 6.0])).tolist() == [1, 2, 2]


def test_buckets_of_nothing() -> None:
    for values in NOTHING:
        buckets = Buckets.fit(values, ones(values), 4)
        assert buckets.size == 2
        assert buckets.encode(np.array([3.0, NAN])).tolist() == [1, 0]


def test_standard_scores_by_hand() -> None:
    """Of 2, 4, 4, 4, 5, 5, 7, 9 the mean is 5 and the deviation 2; 1000 and the missing number are not in training."""
    values = pl.Series([2.0, 4, 4, 4, 5, 5, 7, 9, 1000, NAN])
    scale = Scale.fit(values, counts(1, 5, 1, 1, 1, 1, 1, 1, 0, 3))
    assert scale.state == [5, 2, 2, 9]
    numbers = np.array([5.0, 9, 2, 6, 1000, INF, -INF])
    assert scale.encode(numbers).tolist() == [0, 2, -1.5, 0.5, 2, 2, -1.5]
    assert np.isnan(scale.encode(np.array([NAN]))).all()


@pytest.mark.parametrize("values", [pl.Series([3.0, 3.0]), *NOTHING])
def test_a_scale_without_spread_gives_zero(values: pl.Series) -> None:
    encoded = Scale.fit(values, ones(values)).encode(np.array([3.0, -8, INF, NAN]))
    assert encoded[:3].tolist() == [0, 0, 0] and np.isnan(encoded[3])


def test_ranks_by_hand() -> None:
    """Evenly spread numbers keep their spacing; of few different ones each is a knot, however rare."""
    even = Ranks.fit(pl.Series(np.arange(201.0)), np.ones(201, dtype=np.int64))
    numbers = np.array([0.0, 50, 75, 101, 200, 1e9, -3, INF, -INF])
    np.testing.assert_allclose(even.encode(numbers), [-1, -0.5, -0.25, 0.01, 1, 1, -1, 1, -1], atol=1e-6)
    rare = pl.Series([0.0] * 500 + [1.0] + [NAN])
    assert Ranks.fit(rare, ones(rare)).encode(np.array([0.0, 1.0, 0.5])).tolist() == [-1, 1, 0]
    assert np.isnan(even.encode(np.array([NAN]))).all()


def test_an_outlier_does_not_press_the_other_ranks_together() -> None:
    values = pl.Series([*np.linspace(0, 1, 999), 1e12])
    low, high = Ranks.fit(values, ones(values)).encode(np.array([0.25, 0.75]))
    assert high - low == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("values", [pl.Series([3.0, 3.0]), *NOTHING])
def test_ranks_without_spread_give_zero(values: pl.Series) -> None:
    encoded = Ranks.fit(values, ones(values)).encode(np.array([3.0, -8, INF, NAN]))
    assert encoded[:3].tolist() == [0, 0, 0] and np.isnan(encoded[3])


@given(
    st.sampled_from(["buckets", "scale", "autodis"]),
    st.lists(st.floats(-1e100, 1e100) | st.sampled_from([NAN, INF, -INF]), min_size=1, max_size=30),
    st.lists(st.floats(allow_nan=True), max_size=10),
)
def test_what_is_saved_as_json_encodes_bit_by_bit_the_same(form: Form, seen: list[float], new: list[float]) -> None:
    field, values = Field(name="x", kind="numeric", numeric=form), pl.Series(seen, dtype=pl.Float64)
    fitted = fit_numbers(field, values, ones(values))
    restored = restore_numbers(field, json.loads(json.dumps(fitted.state, allow_nan=False)))
    numbers = np.array([*seen, *new], dtype=np.float64)
    encoded = fitted.encode(numbers)
    assert encoded.tobytes() == restored.encode(numbers).tobytes()
    if form != "buckets":
        assert np.array_equal(np.isnan(encoded), np.isnan(numbers))
        assert np.isfinite(encoded[~np.isnan(numbers)]).all()
