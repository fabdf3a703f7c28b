"""What a caller asks, and what of it can be told to be wrong before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from prerank.errors import RequestError
from prerank.serving.ranking import Column

Id = int | str


@dataclass(frozen=True)
class Request:
    """One user and the candidates to be ordered: the arguments of ``PreRanker.rank``, which explains them."""

    user: Mapping[str, Any]
    candidates: Sequence[Id] | NDArray[Any]
    k: int | None = None
    ranking: str = "score"
    history: Sequence[Any] = ()
    columns: Mapping[str, Sequence[float] | NDArray[Any]] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    unknown: Literal["drop", "error"] = "drop"
    pairs: Mapping[str, Sequence[Any] | NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, values: Any) -> Self:
        """A request of an object with these fields, of which ``user`` and ``candidates`` have to be there.

        Raises:
            RequestError: it is no object, or a field is unknown or missing.
        """
        if not isinstance(values, Mapping):
            raise RequestError(f"expected an object of fields, got {type(values).__name__}")
        known = [one.name for one in fields(cls)]
        for name in values:
            if name not in known:
                raise RequestError(f"{name}: unknown field; fields: {', '.join(known)}")
        for name in ("user", "candidates"):
            if name not in values:
                raise RequestError(f"{name}: is missing")
        return cls(**values)

    def checked(self) -> Checked:
        """The request with lists as lists and columns as numbers.

        Raises:
            RequestError: a field is of the wrong form; it is named.
        """
        for name in ("user", "context", "columns", "pairs"):
            _check_mapping(name, getattr(self, name))
        ids, past = _ids(self.candidates), listed("history", self.history)
        if self.k is not None and (isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1):
            raise RequestError(f"k: expected a whole number of at least 1, got {self.k!r}")
        if self.unknown not in ("drop", "error"):
            raise RequestError(f"unknown: expected 'drop' or 'error', got {self.unknown!r}")
        if not isinstance(self.ranking, str):
            raise RequestError(f"ranking: expected a text, got {type(self.ranking).__name__}")
        columns = {name: _column(name, values, len(ids)) for name, values in self.columns.items()}
        pairs = {name: _one_each(f"pairs.{name}", values, len(ids)) for name, values in self.pairs.items()}
        return Checked(self, ids, past, columns, pairs)


@dataclass(frozen=True)
class Checked:
    """A request whose form is right.

    Attributes:
        request: as it was given.
        ids: K candidates; a list, or an array of 64-bit integers.
        past: the history.
        columns: (K,) numbers by name.
        pairs: K values by name.
    """

    request: Request
    ids: list[Any] | NDArray[np.int64]
    past: list[Any]
    columns: dict[str, Column]
    pairs: dict[str, list[Any]]

    def at(self, places: NDArray[np.int64]) -> list[Id]:
        """The candidates at these places, as the caller wrote them."""
        if isinstance(self.ids, np.ndarray):
            return list(self.ids[places].tolist())
        return [self.ids[place] for place in places.tolist()]


def listed(place: str, values: Any) -> list[Any]:
    """A list or an array as a list.

    Raises:
        RequestError: it is neither.
    """
    if isinstance(values, np.ndarray):
        return list(values.tolist())
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise RequestError(f"{place}: expected a list, got {type(values).__name__}")
    return list(values)


def _ids(values: Any) -> list[Any] | NDArray[np.int64]:
    """Candidates; an array of integers stays one, as a list of them would have to be made an array again."""
    if isinstance(values, np.ndarray) and values.dtype == np.int64 and values.ndim == 1:
        return values
    return listed("candidates", values)


def _check_mapping(place: str, values: Any) -> None:
    if not isinstance(values, Mapping):
        raise RequestError(f"{place}: expected a mapping of names to values, got {type(values).__name__}")


def _one_each(place: str, values: Any, count: int) -> list[Any]:
    each = listed(place, values)
    if len(each) != count:
        raise RequestError(f"{place}: expected one value for each of {count} candidates, got {len(each)}")
    return each


def _column(name: str, values: Any, count: int) -> Column:
    place = f"columns.{name}"
    if name in ("score", "probability"):
        raise RequestError(f"{place}: the model gives this column; choose another name")
    try:
        column = np.asarray(values)
    except ValueError:  # lists of different lengths
        column = np.asarray(None)
    if column.size and column.dtype.kind not in "biuf":
        raise RequestError(f"{place}: expected a list of numbers, one for each candidate")
    if column.shape != (count,):
        raise RequestError(f"{place}: expected one number for each of {count} candidates, got shape {column.shape}")
    column = column.astype(np.float64)
    for position in np.flatnonzero(~np.isfinite(column))[:1]:
        raise RequestError(f"{place}[{position}]: {column[position]} is not a finite number")
    return column
