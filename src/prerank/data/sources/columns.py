"""Typed columns out of CSV and Parquet files, read as a stream; a wrong value is named by file, row and column."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import polars as pl

from prerank.data.sources.files import FilesMissingError, find
from prerank.errors import DataError

# A whole number written the one usual way, so that turning it into an integer loses nothing: 02460 stays text.
WHOLE = r"0|-?[1-9]\d{0,17}"
NUMBER = r"-?\d+(\.\d*)?([eE][+-]?\d+)?"
MOMENTS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d")
WRONG = "is this row wrong?"
# A row with too many fields goes unnoticed where polars skips the columns that a query does not name.
ALL_FIELDS = pl.QueryOptFlags(projection_pushdown=False)
TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum)


def is_whole(values: pl.Series) -> bool:
    """Whether all texts are whole numbers that survive the way to an integer and back."""
    return bool(values.str.contains(f"^({WHOLE})$").all())


@dataclass(frozen=True)
class Column:
    """How one column of a file is read.

    Attributes:
        name: in the file.
        raw: the values as they are, null where missing.
        value: the values as they should be, null where a raw value is not of the expected form.
        expected: the expected form, for messages.
        required: a missing value is an error.
    """

    name: str
    raw: pl.Expr
    value: pl.Expr
    expected: str
    required: bool = False

    @property
    def wrong(self) -> pl.Expr:
        """True where the value is wrong, or missing though required."""
        return self.value.is_null() if self.required else self.value.is_null() & self.raw.is_not_null()


@dataclass(frozen=True)
class Table:
    """A CSV file (every column text) or a Parquet file (typed), not read yet."""

    path: Path
    frame: pl.LazyFrame
    types: pl.Schema
    is_csv: bool

    @classmethod
    def open(cls, directory: Path, name: str) -> Self:
        """The file ``name`` of the folder; a CSV file may be gzipped, with or without ``.gz`` in the name.

        Raises:
            DataError: the file is missing, is of another kind, or has no readable header.
        """
        found = find(directory, name)
        if not found:
            raise FilesMissingError(f"{directory / name}: no such file")
        kind = found.path.name.removesuffix(".gz").rpartition(".")[2]
        if kind not in ("csv", "parquet"):
            raise DataError(f"{found.path}: a .parquet, .csv or .csv.gz file is expected")
        is_csv = kind == "csv"
        try:
            if is_csv:  # a quoted nothing is missing like an unquoted one
                frame = pl.scan_csv(found.path, infer_schema=False, null_values="")
            else:
                frame = pl.scan_parquet(found.path)
            return cls(found.path, frame, frame.collect_schema(), is_csv)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise unreadable(found.path, error) from None

    def type_of(self, name: str) -> pl.DataType:
        """The type of a column.

        Raises:
            DataError: there is no such column.
        """
        if name not in self.types:
            raise DataError(f"{self.path}: no column {name!r}; its columns: {', '.join(self.types)}")
        return self.types[name]

    def identity(self, name: str) -> Column:
        """A category that may not be missing."""
        values = self.category(name)
        return Column(name, values.raw, values.value, values.expected, required=True)

    def category(self, name: str) -> Column:
        """Whole numbers as integers, everything else as text; false and true are 0 and 1.

        Raises:
            DataError: the column holds numbers with decimals, or is of a type that cannot name a category.
        """
        dtype, raw = self.type_of(name), pl.col(name)
        whole = self.is_csv and self._all_match(name, WHOLE)
        decimal = self.is_csv and not whole and self._all_match(name, NUMBER) and self._any_match(name, r".*\..*")
        if dtype.is_float() or decimal:
            raise DataError(
                f"{self.path}: column {name!r} holds numbers with decimals, but is declared categorical; "
                "cast it to integers or text, or declare it numeric"
            )
        if dtype.is_integer() or dtype == pl.Boolean or whole:
            return Column(name, raw, raw.cast(pl.Int64, strict=False), "a whole number of 64 bits")
        if dtype in TEXT_TYPES:
            return Column(name, raw, raw.cast(pl.String), "text")
        raise DataError(f"{self.path}: column {name!r} is {dtype}; categorical takes integers, text or booleans")

    def categories(self, name: str) -> Column:
        """Lists of categories; in CSV their texts with ``|`` between them. A missing list is an empty one.

        Raises:
            DataError: the column does not hold lists of integers or text.
        """
        dtype, raw = self.type_of(name), pl.col(name)
        inner = getattr(dtype, "inner", None)
        if self.is_csv:
            whole = self._all_match(name, rf"({WHOLE})(\|({WHOLE}))*")
            lists = raw.str.split("|").cast(pl.List(pl.Int64 if whole else pl.String))
        elif (
            isinstance(dtype, pl.List | pl.Array) and inner is not None and (inner.is_integer() or inner in TEXT_TYPES)
        ):
            lists = raw.cast(pl.List(pl.Int64 if inner.is_integer() else pl.String)).list.drop_nulls()
        else:
            raise DataError(
                f"{self.path}: column {name!r} is {dtype}, but is declared multi; a list column of integers or text "
                "is expected (in CSV: values with | between them)"
            )
        return Column(name, raw, lists.fill_null([]), "a list")

    def number(self, name: str, required: bool = False) -> Column:
        """Numbers as 64-bit floats; not-a-number counts as missing."""
        dtype, raw = self.type_of(name), pl.col(name)
        self._no_list(name, dtype, "a number")
        if dtype.is_float():
            raw = raw.fill_nan(None)
        return Column(name, raw, raw.cast(pl.Float64, strict=False).fill_nan(None), "a number", required)

    def moment(self, name: str) -> Column:
        """Whole seconds, or whatever whole unit the log has; dates and times become seconds since 1970 (UTC)."""
        dtype, raw = self.type_of(name), pl.col(name)
        if dtype.is_temporal() and dtype not in (pl.Duration, pl.Time):
            value = raw.cast(pl.Datetime("us", getattr(dtype, "time_zone", None))).dt.epoch("s")
        elif dtype == pl.String:
            clock = raw.str.strip_suffix("Z")
            moments = [clock.str.to_datetime(form, time_unit="us", strict=False).dt.epoch("s") for form in MOMENTS]
            first = self._collect(self.frame.select(raw).filter(raw.is_not_null()).head(1))[name]
            is_date = first.str.slice(4, 1).eq("-").any()
            value = pl.coalesce(moments) if is_date else raw.cast(pl.Int64, strict=False)
        elif dtype.is_numeric():
            value = pl.when(raw == raw.round()).then(raw.cast(pl.Int64, strict=False))
        else:
            raise DataError(f"{self.path}: column {name!r} is {dtype}; whole seconds, or dates and times, are expected")
        return Column(
            name, raw, value, "a whole number of seconds, or a time such as 2024-05-06 07:08:09", required=True
        )

    def whole(self, name: str) -> Column:
        """Whole numbers, none of them missing."""
        number = self.number(name, required=True)
        value = pl.when(number.value == number.value.round()).then(number.value.cast(pl.Int64, strict=False))
        return replace(number, value=value, expected="a whole number")

    def flag(self, name: str) -> Column:
        """0 or 1, or false and true, as booleans."""
        dtype, raw = self.type_of(name), pl.col(name)
        self._no_list(name, dtype, "0 or 1")
        if dtype == pl.Boolean:
            value = raw
        elif dtype == pl.String:
            word = raw.str.to_lowercase()
            value = pl.when(word.is_in(["0", "false"])).then(False).when(word.is_in(["1", "true"])).then(True)
        else:
            value = pl.when(raw == 0).then(False).when(raw == 1).then(True)
        return Column(name, raw, value, "0 or 1", required=True)

    def text(self, name: str) -> Column:
        """Any values as text."""
        self._no_list(name, self.type_of(name), "text")
        return Column(name, pl.col(name), pl.col(name).cast(pl.String), "text")

    def reference(self, name: str, ids: pl.Series, of: str) -> Column:
        """Ids of another table, typed as they are there; whether they occur there is left to the caller.

        Raises:
            DataError: the column is of a type that cannot refer to them.
        """
        dtype, raw = self.type_of(name), pl.col(name)
        if not (dtype.is_integer() or dtype in TEXT_TYPES):
            raise DataError(f"{self.path}: column {name!r} is {dtype}; the {of} table has {ids.dtype} ids: cast it")
        return Column(name, raw, raw.cast(ids.dtype, strict=False), f"in the {of} table", required=True)

    def read(self, columns: Mapping[str, Column]) -> pl.DataFrame:
        """Read the columns, each under the given name, rows in file order.

        Raises:
            DataError: the file has no rows, is damaged, or has a wrong value; the first wrong row is named.
        """
        values = [column.value.alias(name) for name, column in columns.items()]
        wrong = pl.any_horizontal(column.wrong for column in columns.values())
        rows = self._collect(self.frame.select(*values, wrong.alias(WRONG)))
        if not rows.height:
            raise DataError(f"{self.path}: has no rows")
        if rows[WRONG].any():
            raise self._explain(rows[WRONG].arg_true()[0], list(columns.values()))
        return rows.drop(WRONG)

    def error(self, row: int, name: str, reason: str) -> DataError:
        """The error for one value, by the 0-based row and the column's name in the file."""
        value = self._collect(self.frame.select(name).slice(row, 1)).item()
        return DataError(f"{self.path}: row {row + 1}, column {name!r}: {value!r} {reason}")

    def _explain(self, row: int, columns: Sequence[Column]) -> DataError:
        one = self._collect(self.frame.slice(row, 1))
        for column in columns:
            if one.select(column.wrong).item():
                missing = one.select(column.raw.is_null()).item()
                if missing:
                    return DataError(f"{self.path}: row {row + 1}, column {column.name!r}: is missing")
                return self.error(row, column.name, f"is not {column.expected}")
        raise AssertionError("a row was found wrong by one of its columns")

    def _all_match(self, name: str, pattern: str) -> bool:
        """Whether there are values, and all match."""
        matches = pl.col(name).str.contains(f"^({pattern})$")
        return bool(self._collect(self.frame.select(matches.mean())).item() == 1)

    def _any_match(self, name: str, pattern: str) -> bool:
        matches = pl.col(name).str.contains(f"^({pattern})$")
        return bool(self._collect(self.frame.select(matches.any())).item())

    def _no_list(self, name: str, dtype: pl.DataType, expected: str) -> None:
        if dtype.is_nested() or dtype.is_temporal() or dtype == pl.Binary:
            raise DataError(f"{self.path}: column {name!r} is {dtype}, {expected} is expected")

    def _collect(self, query: pl.LazyFrame) -> pl.DataFrame:
        try:
            return query.collect(engine="streaming", optimizations=ALL_FIELDS if self.is_csv else pl.QueryOptFlags())
        except (OSError, pl.exceptions.PolarsError) as error:
            raise unreadable(self.path, error) from None


def unreadable(path: Path, error: Exception) -> DataError:
    """Why a CSV or Parquet file could not be read; for a CSV row with too many fields, which one."""
    reason = str(error).strip().splitlines()[0]
    if "more fields" in reason:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", newline="", encoding="utf-8", errors="replace") as text:
            rows = csv.reader(text)
            width = len(next(rows))
            for number, row in enumerate(rows, start=1):
                if len(row) > width:
                    return DataError(f"{path}: row {number} has {len(row)} fields, the header has {width}")
    return DataError(f"{path}: cannot be read ({reason})")
