"""From a raw request to ranked ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from prerank.errors import RequestError
from prerank.publish.checksums import Check
from prerank.publish.generation import Generation, locate, open_generation
from prerank.publish.item_ids import Ints
from prerank.publish.store import ItemStore
from prerank.serving.ranking import evaluate
from prerank.serving.request import Checked, Id, Request, listed

Result = TypeVar("Result")
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
        unscored: how many candidates there was no time for, of those in the catalogue.
        degraded: whether rows had to come from the local store, since a shared one did not give them.
        generation: the published generation that answered.
    """

    ids: list[Id]
    values: NDArray[np.float64]
    scores: NDArray[np.float64]
    unknown: list[Id]
    duplicates: int
    unknown_history: int
    unscored: int
    degraded: bool
    generation: str

    def content(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "values": self.values.tolist(), "scores": self.scores.tolist()}


class Rows(Protocol):
    """Where rows of items come from, other than the store itself."""

    def fetch(self, store: ItemStore, positions: Ints) -> tuple[ItemStore, bool]:
        """The store with the rows of these items, and whether any of them had to be its own ones."""


class _Candidates(NamedTuple):
    """Of K candidates the places of those that are ranked, their positions in the store, and the unknown ids."""

    kept: Ints
    positions: Ints
    missing: list[Id]


class PreRanker:
    """A published model that answers requests. It holds no state of a request, so threads may share it."""

    def __init__(self, generation: Generation, rows: Rows | None = None) -> None:
        """Serve a generation.

        Args:
            generation: the model and its store.
            rows: where the candidates' rows come from; the store itself if None.
        """
        self.generation = generation
        self.rows = rows

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
            preload: read the whole item store now, so that no request waits for the disk, and compute what a plan
                keeps of items (see docs/serving-plan.md).

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
        pairs: Mapping[str, Sequence[Any] | NDArray[Any]] = NOTHING,
        unknown: Literal["drop", "error"] = "drop",
        until: float | None = None,
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
            pairs: raw values of pair fields, one for each candidate; missing ones are unknown. Those that are counted
                from the history are not given.
            unknown: what to do with candidates that are not in the catalogue.
            until: a time on the clock of ``time.perf_counter``. Candidates are scored in their order, and when it has
                come, those that are scored are the answer; at least the first 256 are.

        Raises:
            RequestError: the request cannot be answered as it stands; the field is named.
        """
        return self.answer(Request(user, candidates, k, ranking, history, columns, context, unknown, pairs), until)

    def answer(self, request: Request, until: float | None = None) -> Ranked:
        """What ``rank`` gives for its arguments in one object.

        Raises:
            RequestError: the request cannot be answered as it stands; the field is named.
        """
        return self._answer(request.checked(), until)

    def rank_many(
        self, requests: Iterable[Request], name: Callable[[int], str] = "requests[{}]".format
    ) -> list[Ranked]:
        """Answer many requests at once, of different users as a rule, each with its own candidates.

        The answers are those of ``rank``, in less time: fields and ids are read, and small requests scored, together.

        Args:
            requests: what ``rank`` would be called with.
            name: what messages call the request of a number, counted from 0.

        Raises:
            RequestError: one cannot be answered as it stands; the request and its field are named.
        """
        given = list(requests)
        checked = [_named(name(number), request.checked) for number, request in enumerate(given)]
        try:
            return self._answers(checked)
        except RequestError:
            for number, one in enumerate(checked):
                _named(name(number), partial(self._answer, one))
            raise

    def _answer(self, asked: Checked, until: float | None = None) -> Ranked:
        request = asked.request
        positions, known = self.generation.store.lookup(asked.ids, "candidates")
        found = self._candidates(asked, positions, known)
        generation, degraded = self._with_rows(found.positions)
        logits, unknown = generation.logits(
            request.user, request.context, asked.past, found.positions, _kept(asked, found), until
        )
        if len(logits) == len(found.kept):
            return self._ranked(asked, found, logits, unknown, degraded)
        scored, rest = np.split(found.positions, [len(logits)])
        unscored = int(np.isin(positions[known], rest).sum())
        return self._ranked(
            asked, _Candidates(found.kept[: len(scored)], scored, found.missing), logits, unknown, degraded, unscored
        )

    def _answers(self, every: Sequence[Checked]) -> list[Ranked]:
        names = [name for asked in every for name in listed("candidates", asked.ids)]
        positions, known = self.generation.store.lookup(names, "candidates")
        stops = np.cumsum([len(asked.ids) for asked in every], dtype=np.int64)[:-1]
        places = zip(every, np.split(positions, stops), np.split(known, stops), strict=bool(every))
        found = [self._candidates(*each) for each in places]
        generation, degraded = self._with_rows(np.concatenate([each.positions for each in found] or [positions]))
        logits = generation.logits_of_many(
            [asked.request.user for asked in every],
            [asked.request.context for asked in every],
            [asked.past for asked in every],
            [each.positions for each in found],
            [_kept(*each) for each in zip(every, found, strict=True)],
        )
        return [self._ranked(*each, degraded) for each in zip(every, found, *logits, strict=True)]

    def _with_rows(self, positions: Ints) -> tuple[Generation, bool]:
        """The generation with the rows of these items from where they come, and whether they had to be local ones."""
        if self.rows is None:
            return self.generation, False
        store, degraded = self.rows.fetch(self.generation.store, positions)
        return replace(self.generation, store=store), degraded

    def _candidates(self, asked: Checked, positions: Ints, known: NDArray[np.bool_]) -> _Candidates:
        missing = asked.at(np.flatnonzero(~known))
        if missing and asked.request.unknown == "error":
            raise RequestError(f"candidates: {len(missing)} not in the catalogue, the first is {missing[0]!r}")
        kept = _first_of_each(positions, known)
        return _Candidates(kept, positions[kept], missing)

    def _ranked(
        self,
        asked: Checked,
        found: _Candidates,
        scores: NDArray[np.float64],
        unknown_history: int,
        degraded: bool,
        unscored: int = 0,
    ) -> Ranked:
        request, kept = asked.request, found.kept
        own = {"score": scores, "probability": _sigmoid(scores)}
        values = evaluate(request.ranking, {**{name: column[kept] for name, column in asked.columns.items()}, **own})
        for place in np.flatnonzero(~np.isfinite(values))[:1]:
            name = asked.at(kept[[place]])[0]
            raise RequestError(f"ranking {request.ranking!r}: gives {values[place]} for candidate {name!r}")
        best = _best(values, len(values) if request.k is None else request.k)
        return Ranked(
            ids=asked.at(kept[best]),
            values=values[best],
            scores=scores[best],
            unknown=found.missing,
            duplicates=len(asked.ids) - len(found.missing) - len(kept) - unscored,
            unknown_history=unknown_history,
            unscored=unscored,
            degraded=degraded,
            generation=self.generation.name,
        )

    def titles(self, ids: Sequence[Id]) -> dict[Id, str]:
        """The titles of those items that are in the catalogue and have one.

        Raises:
            RequestError: an id is neither an integer nor a text.
        """
        store, names = self.generation.store, listed("ids", ids)
        positions, known = store.lookup(names)
        places = zip(names, positions, known, strict=True)
        found = {item: store.title(int(position)) for item, position, there in places if there}
        return {item: title for item, title in found.items() if title}


def _kept(asked: Checked, found: _Candidates) -> dict[str, list[Any]]:
    """The pair values of the candidates that are ranked."""
    return {name: [values[place] for place in found.kept] for name, values in asked.pairs.items()}


def _first_of_each(positions: Ints, known: NDArray[np.bool_]) -> Ints:
    """The places of known candidates without repetitions, in their order."""
    places = np.flatnonzero(known)
    ordered = np.sort(positions[places])
    if (ordered[1:] != ordered[:-1]).all():  # as a rule, and known sooner than which ones are the first
        return places
    _, first = np.unique(positions[places], return_index=True)
    return places[np.sort(first)]


def _best(values: NDArray[np.float64], k: int) -> Ints:
    """The places of the k largest values, the largest first; equal ones in their order."""
    places = np.arange(len(values))
    if k < len(values) // 4:  # only those that reach the k-th are sorted
        places = np.flatnonzero(values >= np.partition(values, -k)[-k])
    best: Ints = places[np.argsort(-values[places], kind="stable")][:k]
    return best


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return torch.sigmoid(torch.from_numpy(logits)).numpy()


def _named(name: str, function: Callable[[], Result]) -> Result:
    """What the function returns; its error with a name in front."""
    try:
        return function()
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from None
