"""From finished runs to the JSON of a study: every seed, means, deviations, tests, the paper's values, the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prerank.bench.environment import environment
from prerank.data.log import Dataset
from prerank.errors import DataError
from prerank.evaluation.evaluate import popularity
from prerank.evaluation.metrics import relative_improvement
from prerank.evaluation.significance import standard_error, welch
from prerank.study.experiment import SCORES, describe_dataset, finished
from prerank.study.papers.cells import Cell, Plan
from prerank.study.papers.definition import Comparison, find_published
from prerank.study.papers.elsewhere import Result, join, same_test
from prerank.study.papers.maps import maps

METRICS = ("auc", "gauc", "logloss", "calibration")
LOWER_IS_BETTER = ("logloss",)
CURVES = ("train_loss", "valid_auc", "valid_logloss", "valid_query_similarity")


def gather(plan: Plan, results: Sequence[Result] = ()) -> dict[str, Any]:
    """Everything that is known of a study from the finished runs under ``plan.out`` and from earlier results.

    Args:
        plan: the study.
        results: rows and seeds of it whose runs are not here (``read_results``).

    Returns:
        JSON-ready. ``rows`` holds for each row with a finished run its configuration, each seed's metrics and
        validation curves, ``mean`` and ``sd`` (with n - 1; None for one seed). ``tests`` holds each comparison
        that two seeds of both sides allow; its ``users_se`` is that of the seeds whose runs are here, or the result's.

    Raises:
        DataError: a finished run is of another configuration or data set; none has finished; or a map has no run.
    """
    dataset = Dataset.load(plan.directory)
    described = describe_dataset(dataset)
    cells = {row: runs for row, runs in plan.finished().items() if runs}
    reports = {row: [finished(cell.run)[1] for cell in runs] for row, runs in cells.items()}
    for row, found in reports.items():
        if any(report["dataset"] != described for report in found):
            raise DataError(f"{plan.out / row}: was trained on another data set or protocol than {plan.directory}")
    known = join({row: _trained(found) for row, found in reports.items()}, results)
    if not known:
        raise DataError(f"{plan.out}: no run of {plan.study.name} has finished")
    rows = {row: _row(plan, row, known[row]) for row in plan.study.rows if row in known}
    base = rows.get(plan.study.base)
    for each in rows.values():
        each["relaimpr"] = relative_improvement(each["mean"]["auc"], base["mean"]["auc"]) if base else None
    here = [{**environment(), **found[0]["environment"]} for found in reports.values()][:1]
    others = [place for result in results for place in (result["environment"], *result["elsewhere"])]
    machines = [*here, *others]
    return {
        "study": plan.study.name,
        "title": plan.study.title,
        "base": plan.study.base,
        "data": plan.data.name if plan.data else dataset.name,
        "changes": [*plan.changes, *(["tuned"] if plan.tuned else [])],
        "dataset": described,
        "figure": plan.study.figure.model_dump(mode="json"),
        "rows": rows,
        "popularity": popularity(dataset, "test").metrics,
        "maps": _maps(plan, cells, dataset, results),
        "tests": [test for each in plan.study.tests for test in _tests(each, rows, cells, dataset, results)],
        "paper": paper(plan),
        "commands": commands(plan, {name: [int(seed) for seed in row["seeds"]] for name, row in rows.items()}),
        "environment": machines[0],
        "elsewhere": [place for number, place in enumerate(machines[1:]) if place not in machines[: number + 1]],
    }


def _maps(
    plan: Plan, cells: Mapping[str, Sequence[Cell]], dataset: Dataset, results: Sequence[Result]
) -> dict[str, Any]:
    """The map of each row, from its first run here or else from a result that has it."""
    kind = plan.study.figure.kind
    drawn = {row: drawn for result in reversed(results) for row, drawn in result["maps"].items()}
    drawn |= maps(kind, {row: runs[0].run for row, runs in cells.items()}, dataset)
    if kind.endswith("_map") and not drawn:
        raise DataError(f"{plan.study.name}: its map needs a run in {plan.out}, or a result with a map in --add")
    return drawn


def commands(plan: Plan, rows: Mapping[str, Sequence[int]]) -> list[str]:
    """What makes the result again from the raw files: rows with their seeds."""
    name = plan.data.name if plan.data else "DATA"
    seeds = sorted({seed for each in rows.values() for seed in each})
    words = ["prerank", "study", plan.study.name, *(["--dataset", name] if plan.data else ["--data", name])]
    counted = seeds == list(range(1, len(seeds) + 1))
    words += ["--seeds", str(len(seeds)) if counted else ",".join(map(str, seeds))] if seeds else []
    words += ["--only", ",".join(rows)] if len(rows) < len(plan.study.rows) else []
    words += ["--epochs", str(plan.epochs)] if plan.epochs else []
    words += [word for change in plan.changes for word in ("--set", change)]
    words += ["--tuned", f"configs/{name}/tuned", "--out", f"runs/{name}-tuned"] if plan.tuned else []
    words += ["--json", f"results/{plan.study.name}-{name}{'-tuned' if plan.tuned else ''}.json"]
    return [*([plan.data.build_command] if plan.data else []), " ".join(words)]


def _trained(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shared = {key: reports[0][key] for key in ("training", "parameters")}
    return {**shared, "seeds": {str(report["seed"]): _seed(report) for report in reports}}


def _row(plan: Plan, row: str, trained: Mapping[str, Any]) -> dict[str, Any]:
    declared, values, seeds = plan.study.rows[row], plan.values(row), trained["seeds"]
    summed = {name: [seed["test"][name] for seed in seeds.values()] for name in METRICS}
    summed["epoch_seconds"] = [seed["epoch_seconds"] for seed in seeds.values()]
    return {
        "title": declared.title,
        "x": declared.x,
        "series": declared.series,
        "published": declared.published,
        "model": values["model"],
        "training": trained["training"],
        "parameters": trained["parameters"],
        "seeds": seeds,
        "mean": {name: _mean(found) for name, found in summed.items()},
        "sd": {name: _deviation(found) for name, found in summed.items()},
    }


def _seed(report: Mapping[str, Any]) -> dict[str, Any]:
    learning = report["learning"]
    return {
        "test": report["test"],
        "valid": {name: report["valid"][name] for name in METRICS},
        "best_epoch": report["best_epoch"],
        "epochs": len(learning),
        "epoch_seconds": float(np.mean([epoch["train_seconds"] for epoch in learning])),
        "rows_per_second": float(np.mean([epoch["rows_per_second"] for epoch in learning])),
        "curves": {name: [epoch[name] for epoch in learning] for name in CURVES if name in learning[0]},
    }


def _tests(
    comparison: Comparison,
    rows: Mapping[str, Any],
    cells: Mapping[str, Sequence[Cell]],
    dataset: Dataset,
    results: Sequence[Result],
) -> list[dict[str, Any]]:
    """Welch's two-sided t-test over seeds, against the row that is best on average by the metric in question."""
    against = [name for name in comparison.against if name in rows]
    found = []
    for row in comparison.rows:
        for metric in ("auc", "logloss"):
            if row not in rows or not against:
                continue
            sign = -1 if metric in LOWER_IS_BETTER else 1
            best = max(against, key=lambda name: sign * rows[name]["mean"][metric])
            own, other = ([seed["test"][metric] for seed in rows[name]["seeds"].values()] for name in (row, best))
            test: dict[str, Any] = {"row": row, "metric": metric, "against": best}
            test |= {"missing": [name for name in comparison.against if name not in rows]}
            test |= {"difference": float(np.mean(own) - np.mean(other)), **welch(own, other)}
            if metric == "auc" and row in cells and best in cells:
                test["users_se"] = _over_users(cells[row], cells[best], dataset)
            elif metric == "auc":
                test["users_se"] = same_test(test, results).get("users_se")
            found.append(test)
    return found


def _over_users(own: Sequence[Cell], other: Sequence[Cell], dataset: Dataset) -> float:
    """Standard error over test users of the difference between the mean AUCs of two rows."""
    rows = dataset.parts["test"]
    users = np.repeat(rows.users.astype(np.int64), rows.items.shape[1])
    scores = [np.load(cell.run / SCORES, allow_pickle=False) for cell in (*own, *other)]
    count = len(own)
    return standard_error(
        users,
        np.asarray(rows.labels).ravel(),
        scores,
        lambda aucs: float(np.mean(aucs[:count]) - np.mean(aucs[count:])),
    )


def paper(plan: Plan) -> dict[str, Any] | None:
    """The paper's values for the rows that it has, where the data set answers to one of its columns.

    Costs that the paper gives for one data set only stand beside those on any.
    """
    if plan.data is None or plan.study.published is None:
        return None
    published = find_published(plan.study.published)
    column, differs = plan.data.column.get(plan.study.paper), plan.data.differs
    if plan.study.measured and len(published.values) == 1 and column not in published.values:
        (column,) = published.values
        differs = f"measured on {column}"
    if column not in published.values:
        return None
    assert column is not None
    printed = published.values[column]
    named = {name: row.published for name, row in plan.study.rows.items() if row.published}
    rows = {name: dict(printed[theirs]) for name, theirs in named.items() if theirs in printed}
    return {"source": published.source, "column": column, "differs": differs, "rows": rows}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _deviation(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) == len(values) > 1 else None
