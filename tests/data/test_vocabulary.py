"""Ids of values: the same for a column of a table and for values of a request."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest

from prerank.data.vocabulary import Vocabulary, text, texts
from prerank.errors import DataError


def counts(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def test_values_are_numbered_from_one_in_sorted_order() -> None:
    vocabulary = Vocabulary.fit(pl.Series(["pear", "fig", None, "apple"]), counts(1, 2, 5, 1), 1)
    assert vocabulary.values == ("apple", "fig", "pear")
    assert vocabulary.size == 4
    assert vocabulary.ids(["fig", "plum", None, "apple"], 4).tolist() == [2, 0, 0, 1]


def test_only_rows_of_the_training_part_count() -> None:
    values = pl.Series(["a", "b", "b", "c", "d"])
    assert Vocabulary.fit(values, counts(3, 1, 1, 0, 2), 1).values == ("a", "b", "d")
    assert Vocabulary.fit(values, counts(3, 1, 1, 0, 2), 2).values == ("a", "b", "d")
    assert Vocabulary.fit(values, counts(3, 1, 1, 0, 2), 3).values == ("a",)


def test_each_value_of_a_list_counts() -> None:
    lists = pl.Series([["x", "y"], [], None, ["y", None], ["z"]], dtype=pl.List(pl.String))
    assert Vocabulary.fit(lists, counts(1, 1, 1, 1, 0), 1).values == ("x", "y")
    assert Vocabulary.fit(lists, counts(1, 1, 1, 1, 0), 2).values == ("y",)


def test_an_empty_vocabulary_knows_nothing() -> None:
    vocabulary = Vocabulary.fit(pl.Series([None, None], dtype=pl.String), counts(1, 1), 1)
    assert vocabulary.size == 1
    assert vocabulary.ids(["a", None], 2).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pl.Series([1, None, 30], dtype=pl.Int8), ["1", None, "30"]),
        (pl.Series([1.0, -0.0, None, float("nan"), 2.0**53]), ["1", "0", None, None, "9007199254740992"]),
        (pl.Series([True, False, None]), ["true", "false", None]),
        (pl.Series(["7", "07", "", "é"]), ["7", "07", "", "é"]),
        (pl.Series(["u", "v"], dtype=pl.Categorical), ["u", "v"]),
        (pl.Series([None, None]), [None, None]),
        (pl.Series([[1, None], [], None], dtype=pl.List(pl.Int64)), [["1", None], [], None]),
        (pl.Series([[1.0, 2.0]], dtype=pl.List(pl.Float32)), [["1", "2"]]),
        (pl.Series([[], []]), [[], []]),
    ],
)
def test_columns_as_text(column: pl.Series, expected: list[Any]) -> None:
    assert texts(column).to_list() == expected


@pytest.mark.parametrize("column", [pl.Series("price", [1.0, 2.5]), pl.Series("price", [[1.0], [2.5]])])
def test_fractional_numbers_are_no_category(column: pl.Series) -> None:
    with pytest.raises(DataError, match="column 'price': holds fractional numbers; declare it numeric, or cast it"):
        texts(column)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, "7"),
        ("7", "7"),
        (7.0, "7"),
        (True, "true"),
        (np.int32(7), "7"),
        (np.float32(7), "7"),
        (np.bool_(False), "false"),
        (np.str_("x"), "x"),
        (float("nan"), None),
        (np.float64("nan"), None),
        (None, None),
        (-0.0, "0"),
        (date(2024, 5, 6), "2024-05-06"),
    ],
)
def test_values_as_text(value: Any, expected: str | None) -> None:
    assert text(value) == expected
