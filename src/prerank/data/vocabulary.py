"""How one field's raw values become ids: a vocabulary of values, or quantile buckets of a number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prerank.data.log import Ints
from prerank.errors import DataError

UNKNOWN = 0


class Vocabulary:
    """Known values of a categorical or multi-valued field; value i has id i + 1, everything else id 0.

    Values are compared as text, so that the 25 of a table and the "25" of a request are one value.
    """

    def __init__(self, values: Sequence[str]) -> None:
        self.values = tuple(values)
        self._ids = {value: number for number, value in enumerate(self.values, start=1)}

    @classmethod
    def fit(cls, values: pl.Series, counts: NDArray[np.int64], min_count: int) -> Vocabulary:
        """The values seen at least ``min_count`` times, in sorted order.

        Args:
            values: (R,) a column, or a list column.
            counts: (R,) how often each row occurs in the training part.
        """
        table = pl.DataFrame({"value": texts(values), "count": counts}).filter(pl.col("count") > 0)
        if table.schema["value"] == pl.List(pl.String):
            table = table.explode("value", empty_as_null=True)
        known = (
            table.drop_nulls("value").group_by("value").agg(pl.col("count").sum()).filter(pl.col("count") >= min_count)
        )
        return cls(known["value"].sort().to_list())

    @property
    def size(self) -> int:
        """Number of ids, the out-of-vocabulary row included."""
        return len(self.values) + 1

    def ids(self, values: Iterable[str | None], count: int) -> Ints:
        """(count,) ids of texts; unknown and missing ones are 0."""
        get = self._ids.get
        return np.fromiter((get(value, UNKNOWN) if value is not None else UNKNOWN for value in values), np.int64, count)


class Buckets:
    """Quantile buckets of a number: id 1 below the first edge, and so on; missing and NaN are id 0."""

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = np.asarray(edges, dtype=np.float64)

    @classmethod
    def fit(cls, values: pl.Series, counts: NDArray[np.int64], buckets: int) -> Buckets:
        """Edges at the quantiles of the rows that occur in the training part."""
        numbers = values.to_numpy()[counts > 0].astype(np.float64)
        numbers = numbers[np.isfinite(numbers)]
        if not len(numbers):
            return cls([])
        return cls(np.unique(np.quantile(numbers, np.linspace(0, 1, buckets + 1)[1:-1])).tolist())

    @property
    def size(self) -> int:
        """Number of ids: the buckets and the row for missing values."""
        return len(self.edges) + 2

    def ids(self, values: NDArray[np.float64]) -> Ints:
        """(n,) the bucket of each number."""
        return np.where(np.isnan(values), UNKNOWN, np.searchsorted(self.edges, values, side="right") + 1)


def texts(values: pl.Series) -> pl.Series:
    """A column, or a list column, in the text form that vocabularies compare.

    Raises:
        DataError: a column of fractional numbers; those are a numeric field.
    """
    inner = values.dtype.inner if isinstance(values.dtype, pl.List) else values.dtype
    if inner.is_float():
        flat = values.explode(empty_as_null=True) if isinstance(values.dtype, pl.List) else values
        if not ((flat == flat.round()) | flat.is_null() | flat.is_nan()).all():
            raise DataError(f"column {values.name!r}: holds fractional numbers; declare it numeric, or cast it")
        inner = pl.Int64()
        values = values.cast(pl.List(inner) if isinstance(values.dtype, pl.List) else inner, strict=False)
    return values.cast(pl.List(pl.String) if isinstance(values.dtype, pl.List) else pl.String)


def text(value: Any) -> str | None:
    """One raw value of a request in the text form that vocabularies compare."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
