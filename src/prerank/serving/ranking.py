"""Ranking functions: what candidates are ordered by, as formulas over named columns.

A formula is arithmetic on whole columns and nothing else, so a candidate's value depends on its own row only. It is
read by Python's parser and computed by the few operations listed here; SQL expressions would have been a ready
language, but polars opens the files and addresses that one names while it parses.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import lru_cache, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerank.errors import RequestError

Column = NDArray[np.float64]

NAMED = {"score": "score", "probability": "probability", "ecpm": "probability * bid"}
"""The ranking functions that have a name: the logit, its sigmoid, and the expected revenue of an impression."""

LONGEST = 500

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
    ast.USub: np.negative,
    ast.UAdd: np.positive,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
_FUNCTIONS: dict[str, tuple[Callable[..., Any], range]] = {
    "abs": (np.abs, range(1, 2)),
    "exp": (np.exp, range(1, 2)),
    "log": (np.log, range(1, 2)),
    "log1p": (np.log1p, range(1, 2)),
    "sqrt": (np.sqrt, range(1, 2)),
    "min": (lambda *columns: reduce(np.minimum, columns), range(2, LONGEST)),
    "max": (lambda *columns: reduce(np.maximum, columns), range(2, LONGEST)),
}


def evaluate(ranking: str, columns: Mapping[str, Column]) -> Column:
    """The ranking values of K candidates, higher being better.

    Args:
        ranking: ``score``, ``probability``, ``ecpm``, or a formula of ``columns``: numbers, ``+ - * / **``, one
            comparison (1 where it holds, else 0), ``a if condition else b``, and abs, exp, log, log1p, sqrt, min, max.
        columns: (K,) each.

    Raises:
        RequestError: the formula is not one, or names a column that is not there.
    """
    with np.errstate(all="ignore"):  # what is not finite is refused by the caller, who knows the candidate
        try:
            values = _value(_parse(ranking), ranking, columns)
        except RecursionError:
            raise RequestError(f"ranking {ranking!r}: is nested too deeply") from None
    if not values.ndim:
        raise RequestError(f"ranking {ranking!r}: uses no column, so it ranks nothing; columns: {_names(columns)}")
    return values


@lru_cache(maxsize=256)
def _parse(ranking: str) -> ast.expr:
    if len(ranking) > LONGEST:
        raise RequestError(f"ranking: the formula has {len(ranking)} characters, {LONGEST} are allowed")
    try:
        return ast.parse(NAMED.get(ranking, ranking).strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError):
        raise RequestError(f"ranking {ranking!r}: is not a formula; for example: probability * bid") from None


def _value(node: ast.expr, ranking: str, columns: Mapping[str, Column]) -> Column:
    """A column, or an array of no dimension for a part without columns."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _number(node.value, ranking)
    if isinstance(node, ast.Name):
        if node.id not in columns:
            raise RequestError(f"ranking {ranking!r}: unknown column {node.id!r}; columns: {_names(columns)}")
        return columns[node.id]
    function, parts = _operation(node, ranking)
    return np.asarray(function(*(_value(part, ranking, columns) for part in parts)), dtype=np.float64)


def _operation(node: ast.expr, ranking: str) -> tuple[Callable[..., Any], list[ast.expr]]:
    """What a node computes, and from which parts."""
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)], [left, right]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)], [operand]
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)], [left, right]
        case ast.IfExp(test=test, body=body, orelse=otherwise):
            return np.where, [test, body, otherwise]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            function, counts = _FUNCTIONS[name]
            if len(arguments) not in counts:
                expected = "one argument" if counts.start == 1 else "two or more arguments"
                raise RequestError(f"ranking {ranking!r}: {name} takes {expected}, got {len(arguments)}")
            return function, arguments
    raise RequestError(
        f"ranking {ranking!r}: {ast.unparse(node)!r} is not allowed; use numbers, columns, + - * / **, comparisons, "
        f"'a if b else c' and {', '.join(_FUNCTIONS)}"
    )


def _number(number: Any, ranking: str) -> Column:
    try:
        return np.asarray(number, dtype=np.float64)
    except OverflowError:
        raise RequestError(f"ranking {ranking!r}: a number in it is too large") from None


def _names(columns: Mapping[str, Column]) -> str:
    return ", ".join(sorted(columns))
