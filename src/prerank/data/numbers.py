"""How one field's numbers are encoded: as quantile buckets, standardised, or as ranks.

All are fitted on what the training part shows. A number beyond that, infinity included, counts as the nearest one in
it; not-a-number is a missing value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prerank.data.vocabulary import UNKNOWN
from prerank.schema import Field

Floats = NDArray[np.float64]


class Buckets:
    """Quantile buckets: id 1 below the first edge, and so on; a missing number is id 0."""

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = np.asarray(edges, dtype=np.float64)

    @classmethod
    def fit(cls, values: pl.Series, counts: NDArray[np.int64], buckets: int) -> Buckets:
        """Edges at the quantiles of the rows that occur in the training part."""
        return cls(np.unique(_quantiles(_seen(values, counts), buckets)[1:-1]).tolist())

    @property
    def size(self) -> int:
        """Number of ids: the buckets and the row for missing values."""
        return len(self.edges) + 2

    @property
    def state(self) -> list[float]:
        """What the constructor takes."""
        return [float(edge) for edge in self.edges]

    def encode(self, numbers: Floats) -> NDArray[np.int64]:
        """(n,) the bucket of each number."""
        return np.where(np.isnan(numbers), UNKNOWN, np.searchsorted(self.edges, numbers, side="right") + 1)


class Scale:
    """(number - mean) / deviation, within the range of the training part; a missing number is NaN."""

    def __init__(self, state: Sequence[float]) -> None:
        """Take mean, standard deviation, lowest and highest number."""
        self.mean, self.deviation, self.low, self.high = state

    @classmethod
    def fit(cls, values: pl.Series, counts: NDArray[np.int64]) -> Scale:
        """Mean and deviation of the rows that occur in the training part, each counted once."""
        numbers = _seen(values, counts)
        if not len(numbers):
            return cls([0.0, 1.0, 0.0, 0.0])
        deviation = float(numbers.std()) or 1.0
        return cls([float(numbers.mean()), deviation, float(numbers.min()), float(numbers.max())])

    @property
    def state(self) -> list[float]:
        """What the constructor takes."""
        return [self.mean, self.deviation, self.low, self.high]

    def encode(self, numbers: Floats) -> NDArray[np.float32]:
        """(n,) standard scores."""
        return ((np.clip(numbers, self.low, self.high) - self.mean) / self.deviation).astype(np.float32)


class Ranks:
    """Where a number stands among the training part's, from -1 (lowest) to 1 (highest); a missing one is NaN.

    The knots are quantiles, between which ranks are interpolated, so one outlier does not press all others together.
    """

    KNOTS = 100

    def __init__(self, knots: Sequence[float]) -> None:
        self.knots = np.asarray(knots, dtype=np.float64)

    @classmethod
    def fit(cls, values: pl.Series, counts: NDArray[np.int64]) -> Ranks:
        """Knots at the percentiles of the rows that occur in the training part; equal ones are one knot."""
        return cls(np.unique(_quantiles(_seen(values, counts), cls.KNOTS)).tolist())

    @property
    def state(self) -> list[float]:
        """What the constructor takes."""
        return [float(knot) for knot in self.knots]

    def encode(self, numbers: Floats) -> NDArray[np.float32]:
        """(n,) ranks; all are 0 where the training part had no two different numbers."""
        if len(self.knots) < 2:  # np.interp would take even not-a-number for the only knot
            return np.where(np.isnan(numbers), np.nan, 0.0).astype(np.float32)
        levels = np.linspace(-1, 1, len(self.knots))
        return np.interp(numbers, self.knots, levels).astype(np.float32)


Numbers = Buckets | Scale | Ranks


def fit_numbers(field: Field, values: pl.Series, counts: NDArray[np.int64]) -> Numbers:
    """The coder of a numeric field.

    Args:
        field: of kind numeric.
        values: (R,) numbers, NaN where missing.
        counts: (R,) how often each row occurs in the training part.
    """
    match field.numeric:
        case "buckets":
            return Buckets.fit(values, counts, field.buckets)
        case "scale":
            return Scale.fit(values, counts)
        case "autodis":
            return Ranks.fit(values, counts)


def restore_numbers(field: Field, state: Sequence[float]) -> Numbers:
    """The coder whose ``state`` was saved."""
    coders: dict[str, Any] = {"buckets": Buckets, "scale": Scale, "autodis": Ranks}
    coder: Numbers = coders[field.numeric](state)
    return coder


def _seen(values: pl.Series, counts: NDArray[np.int64]) -> Floats:
    numbers = values.to_numpy()[counts > 0].astype(np.float64)
    return np.asarray(numbers[np.isfinite(numbers)])


def _quantiles(numbers: Floats, parts: int) -> Floats:
    if not len(numbers):
        return np.zeros(0)
    return np.quantile(numbers, np.linspace(0, 1, parts + 1))
