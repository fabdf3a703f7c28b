"""Item ids as 64-bit keys that can be searched: integers as they are, texts by a keyed hash."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from prerank.errors import DataError, RequestError

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Kind = Literal["int", "text"]

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_RANGE = range(-(2**63), 2**63)
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def column_keys(ids: pl.Series, salt: int) -> tuple[Ints, Kind]:
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
    return hashes(ids.cast(pl.Binary).to_arrow().cast(pa.large_binary()), salt), "text"


def request_keys(
    ids: Sequence[Any] | NDArray[Any], kind: Kind, salt: int, place: str
) -> tuple[Ints, NDArray[np.bool_]]:
    """The keys of a request's ids, and which of them can be an id of this kind at all.

    The integer 25 and the text "25" are the same id for both kinds of catalogue; " 25", "025" and "25.0" are not.

    Raises:
        RequestError: an id is neither an integer nor a text; its position is named.
    """
    if kind == "int" and isinstance(ids, np.ndarray) and ids.dtype == np.int64:
        return ids, np.ones(len(ids), dtype=np.bool_)
    types = set(map(type, ids))
    if kind == "int" and types <= {int}:
        try:
            return np.array(ids, dtype=np.int64), np.ones(len(ids), dtype=np.bool_)
        except OverflowError:
            pass  # at least one id is beyond 64 bits: they are taken one by one
    if not types <= {int, str}:
        for position, value in enumerate(ids):
            if isinstance(value, bool) or not isinstance(value, int | str | np.integer):
                raise RequestError(f"{place}[{position}]: an item id is an integer or a text, got {value!r}")
    if kind == "text":
        return hashes(_binary([str(value) for value in ids]), salt), np.ones(len(ids), dtype=np.bool_)
    keys, possible = np.zeros(len(ids), dtype=np.int64), np.ones(len(ids), dtype=np.bool_)
    for position, value in enumerate(ids):
        key = _integer(str(value))
        possible[position] = key is not None
        keys[position] = key or 0
    return keys, possible


def mixed(words: Words) -> Words:
    """A bijection of 64 bits after which every bit depends on every bit (Steele et al., SplitMix, OOPSLA 2014)."""
    words = words.copy()
    for shift, factor in _ROUNDS:
        words ^= words >> np.uint64(shift)
        words *= np.uint64(factor)
    words ^= words >> np.uint64(31)
    return words


def hashes(texts: pa.Array, salt: int) -> Ints:
    """64 bits of each text: among ten million ids a request's unknown id meets a known one once in 10^12.

    Eight bytes of all texts are mixed in at a time. The salt is a store's own, so that nobody can choose an id
    that is taken for another one without reading the store. A message of Python's hashlib for each text would take
    five times as long.

    Args:
        texts: K large_binary values.
        salt: 64 random bits.
    """
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    lengths = np.diff(bounds)
    raw = np.zeros(int(bounds[-1] - bounds[0]) + 8, dtype=np.uint8)  # eight bytes can be read from every place
    raw[:-8] = np.frombuffer(data or b"", dtype=np.uint8)[bounds[0] : bounds[-1]]
    unaligned: Words = np.ndarray(len(raw) - 7, dtype="<u8", buffer=raw.data, strides=(1,))
    state = mixed(lengths.astype(np.uint64) ^ np.uint64(salt))
    starts, rows = bounds[:-1] - bounds[0], np.flatnonzero(lengths)
    consumed = 0
    while len(rows):
        missing = np.maximum(0, 8 * (consumed + 1) - lengths[rows]).astype(np.uint64)
        words = unaligned[starts[rows] + 8 * consumed] & (np.uint64(2**64 - 1) >> (missing * np.uint64(8)))
        state[rows] = mixed(state[rows] ^ words)
        consumed += 1
        rows = rows[lengths[rows] > 8 * consumed]
    return mixed(state ^ np.uint64(salt)).view(np.int64)


def _binary(texts: list[str]) -> pa.Array:
    try:
        return pa.array(texts, pa.large_binary())
    except UnicodeEncodeError:  # a lone surrogate is an id like any other, though no catalogue has it
        return pa.array([text.encode("utf-8", "surrogatepass") for text in texts], pa.large_binary())


def _integer(text: str) -> int | None:
    """The 64-bit integer that a text is the decimal form of."""
    if not _INTEGER.fullmatch(text) or str(int(text)) != text or int(text) not in _RANGE:
        return None
    return int(text)
