"""Answers that were given, held against what the same generation answers now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from prerank.errors import RequestError
from prerank.serving.lines import Line, read_lines
from prerank.serving.preranker import PreRanker, Ranked

TOLERANCE = 1e-5  # of a score, times max(1, |score|)
LOOSE = 1e-4  # of a ranking value: a formula may make more of a difference than there was


@dataclass(frozen=True)
class Replay:
    """What came of it.

    Attributes:
        compared: answers of this generation.
        skipped: answers of others.
        differing: of those compared.
        first: the first difference: line, candidate, what it was and what it is.
    """

    compared: int
    skipped: int
    differing: int
    first: str | None


def replay(ranker: PreRanker, file: Path) -> Replay:
    """Answer the requests of a file of records again.

    Raises:
        RequestError: the file cannot be read, a line is no record, or its request cannot be answered any more.
    """
    compared = skipped = differing = 0
    first = None
    for line in read_lines(file):
        if line.record is None:
            raise RequestError(f"{line.place}: a request without its answer; records are what a service samples")
        if line.record["generation"] != ranker.generation.name:
            skipped += 1
            continue
        compared += 1
        found = _difference(line, line.record["answer"], ranker)
        if found is not None:
            differing += 1
            first = first or f"{line.place}: {found}"
    return Replay(compared, skipped, differing, first)


def _difference(line: Line, answer: Mapping[str, Any], ranker: PreRanker) -> str | None:
    ids, scores, unknown = (_listed(line.place, answer, name) for name in ("ids", "scores", "unknown"))
    if len(ids) != len(scores):
        raise RequestError(f"{line.place}: answer.scores: expected {len(ids)} numbers, got {len(scores)}")
    try:
        now = ranker.answer(replace(line.request, k=None))
    except RequestError as error:
        raise RequestError(f"{line.place}: request: {error}") from None
    for item in unknown:
        if item not in now.unknown:
            return f"candidate {item!r} was unknown and is not any more"
    for item in now.unknown:
        if item not in unknown:
            return f"candidate {item!r} is unknown and was not"
    given = dict(zip(now.ids, zip(now.scores.tolist(), now.values.tolist(), strict=True), strict=True))
    for item, score in zip(ids, scores, strict=True):
        if item not in given:
            return f"candidate {item!r} was ranked and is not any more"
        if not abs(given[item][0] - score) <= TOLERANCE * max(1, abs(score)):
            return f"candidate {item!r}: the score was {score:.9g} and is {given[item][0]:.9g}"
    return _misplaced(line, ids, given, now, answer)


def _misplaced(
    line: Line, ids: list[Any], given: Mapping[Any, tuple[float, float]], now: Ranked, answer: Mapping[str, Any]
) -> str | None:
    """A candidate that stands where its ranking value does not put it."""
    values = [given[item][1] for item in ids]
    for place, (before, after) in enumerate(pairwise(values)):
        if after - before > LOOSE * max(1, abs(before)):
            return f"candidate {ids[place + 1]!r} belongs before {ids[place]!r}"
    if answer.get("unscored", 0):
        return None  # which candidates there was time for, nobody knows now
    wanted = len(now.ids) if line.request.k is None else min(line.request.k, len(now.ids))
    if len(ids) != wanted:
        return f"{len(ids)} candidates were returned, {wanted} are now"
    shown = set(ids)
    rest = next((item for item in now.ids if item not in shown), None)
    if rest is not None and ids and given[rest][1] - values[-1] > LOOSE * max(1, abs(values[-1])):
        return f"candidate {rest!r} is missing"
    return None


def _listed(place: str, answer: Mapping[str, Any], name: str) -> list[Any]:
    values = answer.get(name)
    kinds: type | tuple[type, ...] = (int, float) if name == "scores" else (int, str)
    if not isinstance(values, list) or not all(isinstance(value, kinds) for value in values):
        raise RequestError(f"{place}: answer.{name}: expected a list of {'numbers' if name == 'scores' else 'ids'}")
    return values
