"""How one field's raw values become ids: a vocabulary of values in one text form."""

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
