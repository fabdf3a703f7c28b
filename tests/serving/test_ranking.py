"""Ranking formulas against numpy by hand, and what is no formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerank.errors import RequestError
from prerank.serving.ranking import LONGEST, Column, evaluate

SCORE = np.array([-1.5, 0.0, 2.0, 0.25])
PROBABILITY = 1 / (1 + np.exp(-SCORE))
BID = np.array([3.0, 1.0, 0.5, 2.0])
COLUMNS: dict[str, Column] = {"score": SCORE, "probability": PROBABILITY, "bid": BID}


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("score", SCORE),
        ("probability", PROBABILITY),
        ("ecpm", PROBABILITY * BID),
        ("bid", BID),
        ("probability * bid", PROBABILITY * BID),
        ("  score + bid / 2 - 1 ", SCORE + BID / 2 - 1),
        ("1 / 2 * score", SCORE / 2),
        ("probability ** 0.5 * bid ** 2", np.sqrt(PROBABILITY) * BID * BID),
        ("-score ** 2", -(SCORE * SCORE)),
        ("2 ** 3 ** 2 - score", 512 - SCORE),
        ("+score", SCORE),
        ("abs(score) + exp(score) + log(bid) + log1p(bid) + sqrt(bid)",
         np.abs(SCORE) + np.exp(SCORE) + np.log(BID) + np.log(1 + BID) + np.sqrt(BID)),
        ("min(score, 0.1)", np.array([-1.5, 0.0, 0.1, 0.1])),
        ("max(score, bid, 1)", np.array([3.0, 1.0, 2.0, 2.0])),
        ("score if bid > 0.9 else -9", np.array([-1.5, 0.0, -9.0, 0.25])),
        ("(bid >= 2) + (bid <= 1) - (score < 0) * 5", np.array([-4.0, 1.0, 1.0, 1.0])),
        ("(bid == 1) * 7 + (bid != 1)", np.array([1.0, 7.0, 1.0, 1.0])),
        ("1 if 2 > 1 else score", np.ones(4)),
    ],
)  # fmt: skip
def test_against_numpy(formula: str, expected: Column) -> None:
    np.testing.assert_allclose(evaluate(formula, COLUMNS), expected, rtol=1e-15)


def test_an_unknown_column_is_named_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match="unknown column 'bit'; columns: bid, probability, score"):
        evaluate("probability * bit", COLUMNS)
    with pytest.raises(RequestError, match="'ecpm': unknown column 'bid'; columns: probability, score"):
        evaluate("ecpm", {"score": SCORE, "probability": PROBABILITY})


@pytest.mark.parametrize("formula", ["1", "2 * 3", "1 if 2 > 1 else 3", "min(1, 2)"])
def test_a_constant_ranks_nothing(formula: str) -> None:
    with pytest.raises(RequestError, match="uses no column"):
        evaluate(formula, COLUMNS)


@pytest.mark.parametrize(
    "formula",
    [
        "", " ", "score +", "score bid", "score; bid", "score\nbid", "x = score", "score = 1", "import os", "0x",
        "SELECT 1", "(SELECT 1)", "score IN (SELECT * FROM read_csv('/etc/passwd'))", "score; DROP TABLE items",
        "sum(score) over ()", "score --", "`score`", "\0", "score\0", "((((((" * 60, "1__0*score",
    ],
)  # fmt: skip
def test_what_is_no_formula(formula: str) -> None:
    with pytest.raises(RequestError, match=r"^ranking .*: is not a formula") as caught:
        evaluate(formula, COLUMNS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os').system('true')", "open('/etc/passwd')", "score.__class__", "score.tofile('/tmp/x')",
        "().__class__.__bases__[0].__subclasses__()", "eval('score')", "exec('1')", "getattr(score, 'shape')",
        "[x for x in score]", "[score]", "(score, bid)", "{'a': score}", "score[0]", "score[::-1]", "'text'", "b''",
        "f'{score}'", "True", "None", "...", "1j * score", "score and bid", "not score", "0 < score < 1", "~score",
        "score // 2", "score % 2", "score @ bid", "score & bid", "score << 2", "score is bid", "score in bid",
        "(y := score)", "lambda: score", "sum(score)", "mean(score)", "rank(score)", "sorted(score)",
        "*score", "max(*score, 1)",
        "max(score, key=bid)", "abs(x=score)", "abs(score)(1)", "await_(score)", "read_csv('x')",
    ],
)  # fmt: skip
def test_what_no_formula_may_do(formula: str) -> None:
    with pytest.raises(RequestError, match=r"is not allowed|is not a formula") as caught:
        evaluate(formula, COLUMNS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("abs(score, bid)", "abs takes one argument, got 2"),
        ("log()", "log takes one argument, got 0"),
        ("min(score)", "min takes two or more arguments, got 1"),
        ("1" + "0" * 400 + " * score", "too large"),
        ("score + " * 100 + "score", f"808 characters|{LONGEST} are allowed"),
        ("-" * (LONGEST - 5) + "score", "nested too deeply|is not a formula"),
    ],
)
def test_limits(formula: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        evaluate(formula, COLUMNS)


def test_what_overflows_is_left_to_the_caller() -> None:
    assert evaluate("9 ** 9 ** 9 + score", COLUMNS).tolist() == [np.inf] * 4
    assert np.isnan(evaluate("log(score)", COLUMNS)[0])


FORMULAS = st.recursive(
    st.sampled_from([*COLUMNS, "2", "0.5"]),
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} if {t[1]} > 0.3 else {t[2]})")
        | st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})")
    ),
    max_leaves=8,
)


@given(FORMULAS)
def test_every_formula_is_what_python_says_row_by_row(formula: str) -> None:
    """Python's own evaluation of one candidate at a time is the oracle."""
    rows = [dict(zip(COLUMNS, map(float, row), strict=True)) for row in zip(*COLUMNS.values(), strict=True)]
    expected = [eval(formula, {"min": min, "max": max}, row) for row in rows]
    if any(name in formula for name in COLUMNS):
        np.testing.assert_allclose(evaluate(formula, COLUMNS), expected, rtol=1e-12)
