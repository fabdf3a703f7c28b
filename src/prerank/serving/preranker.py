"""From a raw request to ranked ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from prerank.errors import RequestError
from prerank.publish.checksums import Check
from prerank.publish.generation import Generation, locate, open_generation
from prerank.publish.item_ids import Ints
from prerank.serving.ranking import Column, evaluate

Id = int | str
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Ranked:
    """The answer to a request.

    Attributes:
        ids: the ranked candidates, best first, each as the caller wrote it.
        values: (k,) what they were ranked by.
        scores: (k,) their logits.
        unknown: candidates that are not in the catalogue, as often as they were given.
        duplicates: how many candidates named an item that was named before.
        unknown_history: how many past items the model saw as unknown ones.
        generation: the published generation that answered.
    """

    ids: list[Id]
    values: NDArray[np.float64]
    scores: NDArray[np.float64]
    unknown: list[Id]
    duplicates: int
    unknown_history: int
    generation: str


class PreRanker:
    """A published model that answers requests. It holds no state of a request, so threads may share it."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation

    @classmethod
    def load(
        cls,
        directory: Path | str,
        device: torch.device | str = "cpu",
        *,
        check: Check = "auto",
        preload: bool = False,
    ) -> Self:
        """Open what is published at ``directory``, or a single generation, after checking its files.

        Args:
            directory: what ``prerank publish`` has written.
            device: where the model computes.
            check: how thoroughly files are checked first (see ``prerank.publish.files.verify``).
            preload: read the whole item store now, so that no request waits for the disk.

        Raises:
            ArtefactError: nothing is published there, or a file of it is missing, changed or additional.
        """
        return cls(open_generation(locate(Path(directory)), check, preload=preload, device=device))

    def rank(
        self,
        user: Mapping[str, Any],
        candidates: Sequence[Id] | NDArray[Any],
        k: int | None = None,
        ranking: str = "score",
        *,
        history: Sequence[Any] = (),
        columns: Mapping[str, Sequence[float] | NDArray[Any]] = NOTHING,
        context: Mapping[str, Any] = NOTHING,
        unknown: Literal["drop", "error"] = "drop",
    ) -> Ranked:
        """Order candidates for one user; equal values keep the candidates' order.

        Args:
            user: raw values of user fields; missing ones are unknown.
            candidates: item ids; of a repeated one the first counts. The integer 25 and the text "25" are one id.
            k: how many to return at most; all when None.
            ranking: ``score`` (the logit), ``probability``, ``ecpm`` (probability * bid), or a formula over
                ``score``, ``probability`` and ``columns`` (see ``prerank.serving.ranking``).
            history: past items, oldest first, as ids or as mappings of raw history fields; the model sees the most
                recent ones, as many as it was trained with.
            columns: numbers of each candidate for the ranking formula, such as ``bid``.
            context: raw values of context fields; missing ones are unknown.
            unknown: what to do with candidates that are not in the catalogue.

        Raises:
            RequestError: the request cannot be answered as it stands; the field is named.
        """
        _check_mapping("user", user)
        _check_mapping("context", context)
        _check_mapping("columns", columns)
        ids, past = _listed("candidates", candidates), _listed("history", history)
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise RequestError(f"k: expected a whole number of at least 1, got {k!r}")
        if unknown not in ("drop", "error"):
            raise RequestError(f"unknown: expected 'drop' or 'error', got {unknown!r}")
        given = {name: _column(name, values, len(ids)) for name, values in columns.items()}

        positions, known = self.generation.store.lookup(ids, "candidates")
        missing = [ids[place] for place in np.flatnonzero(~known)]
        if missing and unknown == "error":
            raise RequestError(f"candidates: {len(missing)} not in the catalogue, the first is {missing[0]!r}")
        kept = _first_of_each(positions, known)
        scores, unknown_history = self.generation.logits(user, context, past, positions[kept])

        own = {"score": scores, "probability": _sigmoid(scores)}
        values = evaluate(ranking, {**{name: column[kept] for name, column in given.items()}, **own})
        for place in np.flatnonzero(~np.isfinite(values))[:1]:
            raise RequestError(f"ranking {ranking!r}: gives {values[place]} for candidate {ids[kept[place]]!r}")
        best = np.argsort(-values, kind="stable")[:k]
        return Ranked(
            ids=[ids[place] for place in kept[best]],
            values=values[best],
            scores=scores[best],
            unknown=missing,
            duplicates=len(ids) - len(missing) - len(kept),
            unknown_history=unknown_history,
            generation=self.generation.name,
        )

    def titles(self, ids: Sequence[Id]) -> dict[Id, str]:
        """The titles of those items that are in the catalogue and have one.

        Raises:
            RequestError: an id is neither an integer nor a text.
        """
        store, listed = self.generation.store, _listed("ids", ids)
        positions, known = store.lookup(listed)
        places = zip(listed, positions, known, strict=True)
        found = {item: store.title(int(position)) for item, position, there in places if there}
        return {item: title for item, title in found.items() if title}


def _first_of_each(positions: Ints, known: NDArray[np.bool_]) -> Ints:
    """The places of known candidates without repetitions, in their order."""
    places = np.flatnonzero(known)
    _, first = np.unique(positions[places], return_index=True)
    return places[np.sort(first)]


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return torch.sigmoid(torch.from_numpy(logits)).numpy()


def _check_mapping(place: str, values: Any) -> None:
    if not isinstance(values, Mapping):
        raise RequestError(f"{place}: expected a mapping of names to values, got {type(values).__name__}")


def _listed(place: str, values: Any) -> list[Any]:
    if isinstance(values, np.ndarray):
        return list(values.tolist())
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise RequestError(f"{place}: expected a list, got {type(values).__name__}")
    return list(values)


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
