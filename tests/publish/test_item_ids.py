"""Which ids are the same, tested against Python's own idea of it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerank.errors import DataError, RequestError
from prerank.publish.item_ids import column_keys, hashes, request_keys

SALT = 0x0123456789ABCDEF
LONG = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(LONG | st.sampled_from([-(2**63), 2**63 - 1, 0, -1]), max_size=20))
def test_integers_are_their_own_keys_in_every_form(ids: list[int]) -> None:
    column, kind = column_keys(pl.Series("id", ids, dtype=pl.Int64), SALT)
    assert kind == "int" and column.tolist() == ids
    for given_ids in (ids, [str(i) for i in ids], [np.int64(i) for i in ids]):
        keys, possible = request_keys(given_ids, "int", SALT, "ids")
        assert keys.tolist() == ids and possible.all()


@given(st.lists(st.integers() | st.text(st.characters(codec="utf-8"), max_size=3), max_size=8))
def test_texts_and_integers_meet_in_their_text(ids: list[int | str]) -> None:
    column, kind = column_keys(pl.Series("id", [str(i) for i in ids], pl.String), SALT)
    keys, possible = request_keys(ids, "text", SALT, "ids")
    assert kind == "text" and possible.all() and keys.tolist() == column.tolist()
    assert len(set(keys.tolist())) == len({str(i) for i in ids})


@pytest.mark.parametrize(
    "other", [" 25", "25 ", "025", "+25", "25.0", "2_5", "٢٥", "", "-0", "x", str(2**63), 2**63, -(2**70), "9" * 9999]
)
def test_what_is_no_form_of_an_integer_id(other: str | int) -> None:
    assert request_keys([25, other, "25"], "int", SALT, "ids")[1].tolist() == [True, False, True]


@pytest.mark.parametrize("kind", ["int", "text"])
@pytest.mark.parametrize("wrong", [2.0, True, None, b"25", [25]])
def test_other_types_are_refused_by_position(kind: str, wrong: object) -> None:
    with pytest.raises(RequestError, match=r"candidates\[1\]: an item id is an integer or a text, got"):
        request_keys([25, wrong], kind, SALT, "candidates")  # type: ignore[arg-type]


def test_a_lone_surrogate_is_just_an_unknown_text() -> None:
    assert request_keys(["\ud800"], "text", SALT, "ids")[1].all()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pl.Series("id", [1, None]), "row 2: column 'id' is empty"),
        (pl.Series("id", [1.5]), "is Float64; ids are integers or texts"),
        (pl.Series("id", [2**63], dtype=pl.UInt64), "beyond 64 bits"),
    ],
)
def test_columns_that_hold_no_ids(column: pl.Series, message: str) -> None:
    with pytest.raises(DataError, match=message):
        column_keys(column, SALT)


def one_by_one(text: bytes, salt: int) -> int:
    """The hash as its definition reads, without NumPy."""

    def mixed(word: int) -> int:
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        return word ^ (word >> 31)

    state = mixed(len(text) ^ salt)
    for start in range(0, len(text), 8):
        state = mixed(state ^ int.from_bytes(text[start : start + 8], "little"))
    return int(np.array(mixed(state ^ salt), dtype=np.uint64).view(np.int64))


@given(st.lists(st.binary(max_size=20), max_size=6), st.integers(0, 2**63 - 1), st.integers(0, 2))
def test_all_texts_at_once_have_the_hash_of_each(texts: list[bytes], salt: int, skipped: int) -> None:
    array = pa.array(texts, pa.large_binary())
    assert hashes(array, salt).tolist() == [one_by_one(text, salt) for text in texts]
    assert hashes(array[skipped:], salt).tolist() == [one_by_one(text, salt) for text in texts[skipped:]]


def test_hashes_of_similar_texts_are_distinct_and_even() -> None:
    keys = hashes(pa.array([f"item-{i}".encode() for i in range(200_000)], pa.large_binary()), SALT)
    assert len(np.unique(keys)) == 200_000
    for shift in (0, 32, 56):
        counts = np.bincount((keys.view(np.uint64) >> np.uint64(shift)).astype(np.int64) & 255, minlength=256)
        assert (np.abs(counts - 781.25) < 6 * 781.25**0.5).all()  # six standard deviations of a Poisson count


def test_another_salt_is_another_hash() -> None:
    texts = pa.array([b"a", b"b"], pa.large_binary())
    assert not set(hashes(texts, 1).tolist()) & set(hashes(texts, 2).tolist())
