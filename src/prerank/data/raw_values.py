"""Raw values looked at one by one: columns of tables and values of requests of the right kind, or a clear error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prerank.errors import DataError, RequestError
from prerank.schema import Field


def column_of(table: pl.DataFrame, field: Field, side: str) -> pl.Series:
    """The column of a field.

    Raises:
        DataError: it is missing, or its type does not fit the field's kind.
    """
    if field.name not in table.columns:
        raise DataError(f"{side} table: column {field.name!r} is missing; columns: {', '.join(table.columns)}")
    column = table[field.name]
    if (field.kind == "multi") != isinstance(column.dtype, pl.List):
        expected = "lists" if field.kind == "multi" else "single values"
        raise DataError(f"{side} table: column {field.name!r} is {column.dtype}, kind {field.kind} needs {expected}")
    if field.kind == "numeric" and not (column.dtype.is_numeric() or column.dtype == pl.Null):
        raise DataError(f"{side} table: column {field.name!r} is {column.dtype}, kind numeric needs numbers")
    return column


def column_numbers(column: pl.Series) -> NDArray[np.float64]:
    """As floats, NaN where missing."""
    return column.cast(pl.Float64).to_numpy()


def number(value: Any, place: str) -> float:
    """A number of a request, NaN where missing."""
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise RequestError(f"{place}: expected a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise RequestError(f"{place}: the number is too large") from None


def listed(value: Any, place: str) -> Sequence[Any]:
    """A list of a request, empty where missing."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise RequestError(f"{place}: expected a list of values, got {value!r}")
    return value


def single(value: Any, place: str) -> Any:
    """A value of a request that can be a category."""
    if value is not None and not isinstance(value, str | int | float | bool | np.generic):
        raise RequestError(f"{place}: expected a text or a number, got {type(value).__name__}")
    return value
