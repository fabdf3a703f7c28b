"""Latency of a request: every model as it is served, by its own functions, and the least it can take, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from prerank.bench.environment import environment
from prerank.bench.latency_floor import ceilings, counted, fit_products, floor
from prerank.bench.latency_world import (
    Request,
    catalogue,
    item_bytes,
    opened,
    publish,
    queries_used,
    random_bundle,
    random_requests,
    representation_bytes,
    scoring,
)
from prerank.bench.timing import interleaved, quantiles
from prerank.models.fit import FIT
from prerank.publish.generation import Generation, open_generation
from prerank.serving.preranker import PreRanker, Ranked

CANDIDATES = (100, 500, 1000, 2000, 5000, 10_000)
QUERIES = (16, 64, 256)
HISTORIES = (0, 10, 50, 200)
THREADS = (1, 2)
REQUESTS = 200  # different ones
ALWAYS = ("fit", "two_tower")
WAYS = ("fit", "fit_unmet", "fit_naive", "two_tower")
"""Of the main row: FIT whose plan has met all items, none of those in a history, and without a plan; Two-Tower."""
Progress = Callable[[str, int, int], None]


class Setting(NamedTuple):
    """Of a request, and how many threads PyTorch has for it."""

    candidates: int
    history: int
    threads: int


MAIN = Setting(2000, 50, 1)


@dataclass(frozen=True)
class Wanted:
    """What is to be measured.

    Attributes:
        models: names of the registry; FIT and Two-Tower are always measured.
        items: in the catalogue.
        quick: the main row only: FIT by both paths, Two-Tower and the floor, at 2,000 candidates and 50 behaviours.
        every: all combinations of the axes, instead of one axis at a time from the main row.
        repeats: requests of each way and setting at most, in the main row.
        budget: seconds of each way and setting, outside of the main row.
        seed: of weights, catalogue and requests.
    """

    models: Sequence[str]
    items: int = 500_000
    quick: bool = False
    every: bool = False
    repeats: int = 3000
    budget: float = 0.5
    seed: int = 1


@dataclass(frozen=True)
class Subject:
    """A published model, opened with its plan, which has met all items, and without."""

    model: str
    queries: int | None
    served: Generation
    naive: Generation
    place: Path
    facts: dict[str, Any]

    @property
    def unmet(self) -> Generation:
        """Opened anew: a plan that has met no item yet."""
        return open_generation(self.place)

    @property
    def name(self) -> str:
        """The model, and the number of meta queries where it is not the published one."""
        return self.model if self.queries in (None, 64) else f"{self.model}_{self.queries}"


def latency(directory: Path, wanted: Wanted, progress: Progress) -> dict[str, Any]:
    """Publish models with random weights and time requests to them.

    Args:
        directory: an empty one, for their stores.
        wanted: what is to be measured.
        progress: called with (what is being done, steps done, steps in all).

    Returns:
        JSON-ready. ``fit``, ``fit_naive``, ``two_tower``, ``floor_ms`` and ``ratios`` are of the main row.
    """
    subjects = _published(directory, wanted, progress)
    with _threads(MAIN.threads):
        result = _main_row(subjects, wanted, progress)
    if not wanted.quick:
        result["models"] = {name: subject.facts for name, subject in subjects.items()}
        result["rows"] = list(_rows(subjects, wanted, progress))
        result["scaling"] = scaling(result["rows"])
    return {
        "items": wanted.items,
        **MAIN._asdict(),
        "meta_queries": 64,
        "seed": wanted.seed,
        **result,
        "environment": environment(),
    }


def _published(directory: Path, wanted: Wanted, progress: Progress) -> dict[str, Subject]:
    chosen: list[tuple[str, int | None]] = [("fit", 64), ("two_tower", None)]
    if not wanted.quick:
        chosen += [(name, None) for name in wanted.models if name not in ALWAYS]
        chosen += [("fit", queries) for queries in QUERIES if queries != 64]
    items, subjects = catalogue(wanted.items, wanted.seed), {}
    for number, (name, queries) in enumerate(chosen):
        progress(f"publishing {name}", number, len(chosen))
        changes = {} if queries is None else {"meta_queries": queries}
        place = directory / f"{name}-{queries}"
        publish(random_bundle(name, wanted.items, wanted.seed, **changes), items.lazy(), place, "float32", None)
        served, naive = opened(place)
        facts = {
            "plan": type(served.plan).__name__,
            "item_bytes": item_bytes(place),
            "representation_bytes": representation_bytes(served),
        }
        subject = Subject(name, queries, served, naive, place, facts)
        subjects[subject.name] = subject
    return subjects


def _main_row(subjects: Mapping[str, Subject], wanted: Wanted, progress: Progress) -> dict[str, Any]:
    fit, two_tower = subjects["fit"], subjects["two_tower"]
    progress("main row", 0, 1)
    requests = _requests(subjects, wanted, MAIN, wanted.repeats)
    model = fit.served.bundle.model
    assert isinstance(model, FIT)
    products = fit_products(model, MAIN.candidates, MAIN.history)
    limits = ceilings(fit.served, products)
    ways: dict[str, Callable[[Request], Any]] = {
        "fit": scoring(fit.served),
        "fit_unmet": scoring(fit.unmet),
        "fit_naive": scoring(fit.naive),
        "two_tower": scoring(two_tower.served),
        **limits,
        "whole fit": whole(fit.served),
        "whole two_tower": whole(two_tower.served),
    }
    times = interleaved(ways, requests, wanted.repeats, 60.0)
    found = floor(fit.served, products, MAIN.candidates, {name: times[name] for name in limits})
    floor_ms = found.pop("floor_ms")
    row: dict[str, Any] = {name: quantiles(times[name]) for name in WAYS}
    row["fit"]["queries_used"] = queries_used(fit.served, requests[:50])
    p50 = {name: float(np.median(times[name])) * 1e3 for name in row}
    return {
        **{name: {**row[name], **_facts(subjects, name)} for name in row},
        "floor_ms": floor_ms,
        "ratios": {
            "fit/fit_naive": p50["fit"] / p50["fit_naive"],
            "fit/two_tower": p50["fit"] / p50["two_tower"],
            "fit_unmet/fit_naive": p50["fit_unmet"] / p50["fit_naive"],
            "fit_unmet/two_tower": p50["fit_unmet"] / p50["two_tower"],
            "fit/floor": p50["fit"] / floor_ms,
            "fit_unmet/floor": p50["fit_unmet"] / floor_ms,
            "fit/floor of met items": p50["fit"] / found["floor_of_met_items_ms"],
            "fit p99/p50": row["fit"]["p99_ms"] / p50["fit"],
            "two_tower p99/p50": row["two_tower"]["p99_ms"] / p50["two_tower"],
        },
        "floor": {**found, "naive_flops": counted(fit.naive, requests[0])},
        "raw_to_ranked": {name: quantiles(times[f"whole {name}"]) for name in ALWAYS},
    }


def _facts(subjects: Mapping[str, Subject], way: str) -> dict[str, Any]:
    facts = subjects[way.removesuffix("_naive").removesuffix("_unmet")].facts
    return {**facts, "plan": "PlainPlan"} if way.endswith("_naive") else facts


def _rows(subjects: Mapping[str, Subject], wanted: Wanted, progress: Progress) -> Iterator[dict[str, Any]]:
    """Every model by both paths, at every setting."""
    chosen = settings(wanted.every)
    for number, setting in enumerate(chosen):
        what = f"{setting.candidates:,} candidates, {setting.history} behaviours, {setting.threads} threads"
        progress(what, number, len(chosen))
        requests = _requests(subjects, wanted, setting, REQUESTS)
        ways = {}
        for name, subject in subjects.items():
            ways[name, "plan"], ways[name, "naive"] = scoring(subject.served), scoring(subject.naive)
        with _threads(setting.threads):
            times = interleaved(
                {f"{name} {path}": way for (name, path), way in ways.items()}, requests, wanted.repeats, wanted.budget
            )
        for name, path in ways:
            row = {"model": name, "path": path, "queries": subjects[name].queries, **setting._asdict()}
            yield {**row, **quantiles(times[f"{name} {path}"])}


def settings(every: bool) -> list[Setting]:
    """The main row first; then one axis at a time from there, or every combination."""
    if every:
        rest = [Setting(k, length, t) for t in THREADS for length in HISTORIES for k in CANDIDATES]
    else:
        rest = [MAIN._replace(candidates=k) for k in CANDIDATES]
        rest += [MAIN._replace(history=length) for length in HISTORIES]
        rest += [MAIN._replace(threads=t) for t in THREADS]
    return list(dict.fromkeys([MAIN, *rest]))


def scaling(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How FIT's p50 grows: with the candidates, as a line's share of explained variance, and with the queries."""
    main = [row for row in rows if row["path"] == "plan" and row["history"] == 50 and row["threads"] == 1]
    curve = {row["candidates"]: row["p50_ms"] for row in main if row["model"] == "fit"}
    slope, start = np.polyfit(list(curve), list(curve.values()), 1)
    residuals = np.array([p50 - start - slope * k for k, p50 in curve.items()])
    deviations = np.array(list(curve.values())) - np.mean(list(curve.values()))
    queries = {
        row["queries"]: row["p50_ms"]
        for row in sorted(main, key=lambda row: row["queries"] or 0)
        if row["queries"] and row["candidates"] == MAIN.candidates
    }
    return {
        "candidates_p50_ms": {str(k): p50 for k, p50 in curve.items()},
        "microseconds_a_candidate": 1e3 * slope,
        "line_explains": float(1 - (residuals**2).sum() / (deviations**2).sum()),
        "queries_p50_ms": {str(n): p50 for n, p50 in queries.items()},
    }


def _requests(subjects: Mapping[str, Subject], wanted: Wanted, setting: Setting, count: int) -> list[Request]:
    some = subjects["fit"].served
    return random_requests(some, count, setting.candidates, setting.history, wanted.items, wanted.seed)


def whole(generation: Generation) -> Callable[[Request], Ranked]:
    """From raw values and ids to a ranked list."""
    ranker = PreRanker(generation)
    return lambda request: ranker.rank(request.user, request.positions, history=request.past.tolist())


def one_thread() -> AbstractContextManager[None]:
    """PyTorch on one thread."""
    return _threads(1)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
