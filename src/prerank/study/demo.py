"""The demonstration: MovieLens-100K from files to a ranked list, with the papers' two ends compared on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from prerank.data.build import build
from prerank.data.log import Dataset, RawLog
from prerank.data.protocol import preset
from prerank.publish.bundle import load_bundle
from prerank.publish.publish import publish_bundle
from prerank.serving.preranker import PreRanker
from prerank.study.compare import compare_runs
from prerank.study.experiment import BUNDLE, REPORT, finished, run_experiment
from prerank.study.figures import require
from prerank.study.report import RankedTable, ReportContents, embed_items, write_report
from prerank.training.config import RunConfig, TrainingConfig
from prerank.training.trainer import Reporter

MODELS = ("two_tower", "fit")
# Each user's last ten events: a test of 18,860 rows, in which a difference of 0.01 AUC is more than noise.
PROTOCOL = preset("din", ["test_size=10"])
# Small batches and large steps, because the data is small and two cores have to be done within minutes.
TRAINING = TrainingConfig(batch_rows=1024, learning_rate=0.002, max_epochs=8, patience=2)
SHOWN = 10


@dataclass(frozen=True)
class Demo:
    """What the demonstration found.

    Attributes:
        comparison: as ``compare_runs`` returns it.
        ranked: the list for one user.
        report: the page to open.
    """

    comparison: dict[str, Any]
    ranked: RankedTable
    report: Path


def run_demo(raw: RawLog, out: Path, display: Callable[[str], AbstractContextManager[Reporter]]) -> Demo:
    """Build, train both models, compare, publish FIT, rank for one user, write ``report.json`` and ``report.html``.

    Finished runs in ``out`` are kept, interrupted ones continue.

    Args:
        raw: MovieLens-100K as its source reads it.
        out: directory of everything that is made.
        display: opens a progress display for a named piece of work.
    """
    for library in ("matplotlib", "sklearn"):  # missed now rather than after the training
        require(library)
    dataset = build(raw, PROTOCOL)
    dataset.save(out / "dataset")
    reports = {name: _trained(name, out, display) for name in MODELS}
    comparison = compare_runs([out / name for name in MODELS])
    bundle = load_bundle(out / "fit" / BUNDLE)
    publish_bundle(bundle, dataset, out / "published")
    ranked = rank_for_someone(PreRanker.load(out / "published"), dataset)
    content = {**reports, "comparison": comparison, "ranked": ranked.as_json()}
    (out / REPORT).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    page = out / "report.html"
    items = embed_items(bundle.model, bundle.encoder.encode("item", dataset.items))
    write_report(page, ReportContents(comparison=comparison, reports=reports, items=items, ranked=ranked))
    return Demo(comparison, ranked, page)


def rank_for_someone(ranker: PreRanker, dataset: Dataset) -> RankedTable:
    """Rank for the first test user as of the test's beginning, from raw values as a request carries them.

    The candidates are all films that the user had not rated by then; those rated later are marked in the answer.
    """
    schema, test, timelines = dataset.schema, dataset.parts["test"], dataset.timelines
    row, now = int(test.users[0]), int(test.ends[0])
    user = dataset.users.row(row, named=True)
    begin, end = (int(position) for position in timelines.offsets[row : row + 2])
    seen = dataset.items[timelines.entries[begin:now]]
    later = set(dataset.items[schema.item_id].gather(timelines.entries[now:end].tolist()))
    unseen = dataset.items.filter(~pl.col(schema.item_id).is_in(seen[schema.item_id].to_list()))
    answer = ranker.rank(
        {field.name: user[field.name] for field in schema.user},
        unseen[schema.item_id].to_list(),
        k=SHOWN,
        ranking="probability",
        history=seen[schema.item_id].to_list(),
    )
    films = {film[schema.item_id]: film for film in unseen.iter_rows(named=True)}
    return RankedTable(
        user=user,
        history=[_film(film) for film in seen.tail(SHOWN).iter_rows(named=True)],
        ranked=[
            {**_film(films[item]), "probability": float(value), "rated_later": item in later}
            for item, value in zip(answer.ids, answer.values, strict=True)
        ],
        candidates=unseen.height,
        generation=answer.generation,
    )


def _trained(name: str, out: Path, display: Callable[[str], AbstractContextManager[Reporter]]) -> dict[str, Any]:
    config = RunConfig(data=out / "dataset", model={"name": name}, training=TRAINING)
    run = out / name
    if (run / REPORT).exists():
        return finished(run)[1]
    with display(name) as reporter:
        return run_experiment(config, run, reporter)


def _film(row: dict[str, Any]) -> dict[str, Any]:
    return {"title": row["title"], "genres": list(row["genres"])}
