"""A simulated cascade of recall, pre-ranking and ranking: what pre-rankers let through, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prerank.bench.environment import environment
from prerank.bench.latency import one_thread
from prerank.bench.latency_world import representation_bytes
from prerank.bench.timing import interleaved, quantiles
from prerank.data.log import Dataset
from prerank.errors import DataError
from prerank.evaluation.cascade import let_through, mean_and_error, ndcg, ranks, recall, shown
from prerank.evaluation.metrics import Floats, Ids
from prerank.publish.bundle import load_bundle
from prerank.publish.generation import Generation, locate, open_generation
from prerank.publish.publish import publish_bundle
from prerank.serving.preranker import PreRanker, Ranked
from prerank.serving.request import Request
from prerank.study.experiment import BUNDLE, by_name, finished
from prerank.study.recalled import Asked, ask, at_random, popular, recalled

UNRANKED = "order of recall"
"""The row of no pre-ranker at all: candidates are cut off in the order in which they were found."""
CHUNK = 50  # requests scored at a time
TIMED = 100  # different requests
REPEATS, BUDGET = 400, 6.0  # requests of each model at most, and seconds
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Wanted:
    """What is to be simulated.

    Attributes:
        judge: the run that ranks last.
        recall: what finds the candidates: ``popularity``, ``random``, or a run's directory.
        candidates: K of each user.
        top: sizes m of the judge's choice that is to come through, and of the list that is shown.
        cut: how many candidates k a pre-ranker lets through.
        users: how many are drawn.
        seed: of users, and of random candidates.
    """

    judge: Path
    recall: str
    candidates: int
    top: Sequence[int]
    cut: Sequence[int]
    users: int
    seed: int


def cascade(runs: Sequence[Path], wanted: Wanted, directory: Path, progress: Progress) -> dict[str, Any]:
    """Publish runs, let them order the same candidates of the same users, then time them in turn.

    Args:
        runs: finished runs on one data set, called as ``by_name`` says. The judge is a row in any case.
        wanted: what is to be simulated.
        directory: an empty one, for what is published.
        progress: called with (what is being done, steps done, steps in all).

    Returns:
        JSON-ready: the settings; ``recalled``, the share of users whose next event is among the candidates; in
        ``cascade``, by name, what ``_quality`` and ``_cost`` say of each; in ``ranking``, by k, the judge's time for k
        candidates. Numbers over users have a mean and its standard error.

    Raises:
        DataError: runs are not finished, of different data sets, or share a name.
        ConfigError: there are not so many users or candidates.
    """
    found_by_run = wanted.recall not in ("popularity", "random")
    places = by_name([*runs, wanted.judge, *([Path(wanted.recall)] if found_by_run else [])])
    called = {run: name for name, run in places.items()}
    reports = {name: finished(run) for name, run in places.items()}
    dataset = _one_dataset(places, reports)
    asked = ask(dataset, wanted.users, wanted.seed)
    steps, published = 2 * len(places) + 1, {}
    for number, (name, run) in enumerate(places.items()):
        progress(f"publishing {name}", number, steps)
        publish_bundle(load_bundle(run / BUNDLE), dataset, directory / name)
        published[name] = open_generation(locate(directory / name), preload=True)
    ids = dataset.items[dataset.schema.item_id].to_list()
    recaller = published[called[Path(wanted.recall).resolve()]] if found_by_run else None
    found = recalled(_found_by(wanted, dataset, asked, recaller), asked, wanted.candidates)
    rows = [name for name, run in places.items() if run in {each.resolve() for each in (*runs, wanted.judge)}]
    ranked = {UNRANKED: np.tile(np.arange(wanted.candidates), (wanted.users, 1))}
    for number, name in enumerate(rows, start=len(places)):
        progress(f"scoring by {name}", number, steps)
        ranked[name] = ranks(np.stack(list(_scores(published[name], asked, found, ids))))
    progress("timing", steps - 1, steps)
    judge, target = called[wanted.judge.resolve()], asked.places(found)
    times = _times({name: published[name] for name in rows}, judge, asked, found, ids, wanted)
    quality = {name: _quality(ranked[judge], own, target, wanted) for name, own in ranked.items()}
    costs = {name: _cost(published[name], reports[name][1], times[name]) for name in rows}
    return {
        "judge": judge,
        "recalled_by": called[Path(wanted.recall).resolve()] if found_by_run else wanted.recall,
        **{name: getattr(wanted, name) for name in ("candidates", "users", "seed")},
        **{name: list(getattr(wanted, name)) for name in ("top", "cut")},
        "threads": 1,
        "dataset": reports[judge][1]["dataset"],
        "recalled": mean_and_error(target >= 0),
        "cascade": {name: {**each, **costs.get(name, {})} for name, each in quality.items()},
        "ranking": {str(cut): times[f"ranking {cut}"] for cut in wanted.cut},
        "environment": environment(),
    }


def _one_dataset(places: Mapping[str, Path], reports: Mapping[str, Any]) -> Dataset:
    (first, (config, report)), *others = reports.items()
    for name, (_, other) in others:
        if other["dataset"] != report["dataset"]:
            raise DataError(f"{places[name]}: trained on another data set or protocol than {places[first]}")
    return Dataset.load(config.data)


def _found_by(wanted: Wanted, dataset: Dataset, asked: Asked, recaller: Generation | None) -> Iterator[Floats]:
    if recaller is None:
        return popular(dataset) if wanted.recall == "popularity" else at_random(dataset, wanted.seed)
    ids = dataset.items[dataset.schema.item_id].to_list()
    every = np.tile(np.arange(len(ids)), (len(asked.requests), 1))
    return _scores(recaller, asked, every, ids)


def _scores(generation: Generation, asked: Asked, items: Ids, ids: Sequence[Any]) -> Iterator[Floats]:
    """The logits of each request's (U, K) items, rows of the item table, by the served path."""
    positions, _ = generation.store.lookup(ids)
    for start in range(0, len(items), CHUNK):
        some, places = asked.requests[start : start + CHUNK], positions[items[start : start + CHUNK]]
        yield from generation.logits_of_many(
            [request.user for request in some],
            [request.context for request in some],
            [request.past for request in some],
            list(places),
        )[0]


def _times(
    published: Mapping[str, Generation], judge: str, asked: Asked, found: Ids, ids: Sequence[Any], wanted: Wanted
) -> dict[str, Any]:
    """Quantiles of whole answers, from raw values to ordered ids, by each model and by the judge for k candidates."""
    requests = [
        Request(one.user, [ids[item] for item in items], max(wanted.cut), history=one.past, context=one.context)
        for one, items in zip(asked.requests[:TIMED], found, strict=False)
    ]
    fewer = {
        cut: [replace(one, candidates=one.candidates[:cut], k=max(wanted.top)) for one in requests]
        for cut in wanted.cut
    }

    def answering(generation: Generation, own: Sequence[Request]) -> Callable[[int], Ranked]:
        ranker = PreRanker(generation)
        return lambda number: ranker.answer(own[number])

    ways = {name: answering(generation, requests) for name, generation in published.items()}
    ways |= {f"ranking {cut}": answering(published[judge], own) for cut, own in fewer.items()}
    with one_thread():
        times = interleaved(ways, range(len(requests)), REPEATS, BUDGET)
    return {name: quantiles(seconds) for name, seconds in times.items()}


def _quality(judge: Ids, own: Ids, target: Ids, wanted: Wanted) -> dict[str, Any]:
    """What a pre-ranker's order is worth.

    ``recall`` [m][k] and ``ndcg`` [m] of the judge's best m; ``let_through`` [k], the share of users whose next event
    is among the best k; ``hit_rate`` [m][k], of those to whom it is shown among the judge's best m of these k; and
    ``hit_rate_lost`` [m][k], how much more it would be if the judge ranked all candidates.
    """
    result: dict[str, Any] = {
        "let_through": {str(cut): mean_and_error(let_through(own, target, cut)) for cut in wanted.cut},
        "recall": {},
        "ndcg": {str(top): mean_and_error(ndcg(judge, own, top)) for top in wanted.top},
        "hit_rate": {},
        "hit_rate_lost": {},
    }
    for top in wanted.top:
        everything = shown(judge, judge, target, wanted.candidates, top).astype(np.float64)
        hits = {str(cut): shown(judge, own, target, cut, top) for cut in wanted.cut}
        result["recall"][str(top)] = {str(cut): mean_and_error(recall(judge, own, top, cut)) for cut in wanted.cut}
        result["hit_rate"][str(top)] = {cut: mean_and_error(hit) for cut, hit in hits.items()}
        result["hit_rate_lost"][str(top)] = {cut: mean_and_error(everything - hit) for cut, hit in hits.items()}
    return result


def _cost(generation: Generation, report: Mapping[str, Any], times: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is, its test AUC, and what it costs: time of all candidates and bytes of an item's row."""
    return {
        "model": report["model"]["name"],
        "test_auc": report["test"]["auc"],
        "time": times,
        "bytes_per_item": representation_bytes(generation),
        "plan": type(generation.plan).__name__,
    }
