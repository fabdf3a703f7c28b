"""Item ids as 64-bit keys that can be sorted and searched: integers as they are, texts by a hash."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prerank.errors import DataError, RequestError

Ints = NDArray[np.int64]
Kind = Literal["int", "text"]

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_RANGE = range(-(2**63), 2**63)


def column_keys(ids: pl.Series) -> tuple[Ints, Kind]:
    """The keys of a catalogue's id column.

    Raises:
        DataError: an id is missing, or the column holds neither integers nor texts.
    """
    if ids.null_count():
        row = int(ids.is_null().arg_max() or 0) + 1
        raise DataError(f"items, row {row}: column {ids.name!r} is empty; every item needs an id")
    if ids.dtype.is_integer():
        try:
            return ids.cast(pl.Int64).to_numpy(), "int"
        except pl.exceptions.PolarsError:
            raise DataError(f"items: column {ids.name!r} holds ids beyond 64 bits; give them as texts") from None
    if ids.dtype != pl.String:
        raise DataError(f"items: column {ids.name!r} is {ids.dtype}; ids are integers or texts")
    return np.fromiter((_hash(text) for text in ids), np.int64, len(ids)), "text"


def request_keys(ids: Sequence[Any], kind: Kind, place: str) -> tuple[Ints, NDArray[np.bool_]]:
    """The keys of a request's ids, and which of them can be an id of this kind at all.

    The integer 25 and the text "25" are the same id for both kinds of catalogue; " 25", "025" and "25.0" are not.

    Raises:
        RequestError: an id is neither an integer nor a text; its position is named.
    """
    if kind == "int" and set(map(type, ids)) <= {int}:
        try:
            return np.array(ids, dtype=np.int64), np.ones(len(ids), dtype=np.bool_)
        except OverflowError:
            pass  # at least one id is beyond 64 bits: they are taken one by one
    keys, possible = np.zeros(len(ids), dtype=np.int64), np.ones(len(ids), dtype=np.bool_)
    for position, value in enumerate(ids):
        if isinstance(value, bool) or not isinstance(value, int | str | np.integer):
            raise RequestError(f"{place}[{position}]: an item id is an integer or a text, got {value!r}")
        key = _hash(str(value)) if kind == "text" else _integer(str(value))
        possible[position] = key is not None
        keys[position] = key or 0
    return keys, possible


def _integer(text: str) -> int | None:
    """The 64-bit integer that a text is the decimal form of."""
    if not _INTEGER.fullmatch(text) or str(int(text)) != text or int(text) not in _RANGE:
        return None
    return int(text)


def _hash(text: str) -> int:
    """64 bits of BLAKE2b: among ten million ids a request's unknown id meets a known one once in 10^12."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
