"""Finished runs side by side, with the standard error of each difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prerank.data.log import Dataset
from prerank.errors import DataError
from prerank.evaluation.evaluate import Evaluation, popularity, summarise
from prerank.evaluation.metrics import relative_improvement
from prerank.evaluation.significance import standard_error
from prerank.study.experiment import SCORES, by_name, finished
from prerank.study.familiar import familiar_negatives
from prerank.training.config import RunConfig

POPULARITY = "popularity"


def compare_runs(runs: Sequence[Path], base: str | None = None) -> dict[str, Any]:
    """Compare runs on one data set.

    Args:
        runs: run directories; ``by_name`` says how they are called.
        base: the run that RelaImpr and differences count from; the first one by default.

    Returns:
        JSON-ready: the data set, the base, and by run name the test metrics, ``auc_se`` (standard error over
        users), ``auc_minus_base`` with ``auc_minus_base_se`` (paired), ``relaimpr`` in percent, speed and size.
        ``popularity`` is always a row. With sampled labels ``familiar_negatives`` says how each run does against
        negatives that it met in training and against others.

    Raises:
        DataError: a run is not finished, runs are of different data sets, or share a name.
    """
    places = by_name(runs)
    names, runs = list(places), list(places.values())
    base = base or names[0]
    if base not in names:
        raise DataError(f"--base {base}: not among the runs: {', '.join(names)}")
    loaded = [finished(run) for run in runs]
    described = loaded[0][1]["dataset"]
    for run, (_, report) in zip(runs, loaded, strict=True):
        if report["dataset"] != described:
            raise DataError(f"{run}: trained on another data set or protocol than {runs[0]}; their AUCs do not compare")
    dataset = Dataset.load(loaded[0][0].data)
    baseline = popularity(dataset, "test")
    if baseline.metrics["auc"] is None:
        raise DataError(f"{loaded[0][0].data}: the test part has labels of one class only, nothing can be compared")
    evaluations = {name: _scores(run, baseline) for name, run in zip(names, runs, strict=True)}
    rows: dict[str, Any] = {POPULARITY: {"test": baseline.metrics, **_against(baseline, evaluations[base])}}
    for name, (config, report) in zip(names, loaded, strict=True):
        rows[name] = {
            "test": report["test"],
            **_against(evaluations[name], evaluations[base]),
            "model": report["model"]["name"],
            "seed": report["seed"],
            "parameters": report["parameters"],
            "best_epoch": report["best_epoch"],
            **_familiar(dataset, config, report["best_epoch"], evaluations[name]),
            "rows_per_second": float(np.mean([epoch["rows_per_second"] for epoch in report["learning"]])),
        }
    return {"dataset": described, "base": base, "runs": rows, "environment": loaded[0][1]["environment"]}


def markdown_table(comparison: Mapping[str, Any]) -> str:
    """The comparison as a Markdown table, the base row's difference left empty."""
    lines = [
        "| model | test AUC (± s.e.) | difference to base (± s.e.) | RelaImpr | GAUC | logloss | predicted/observed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in comparison["runs"].items():
        test = row["test"]
        is_base = name == comparison["base"]
        difference = "" if is_base else f"{row['auc_minus_base']:+.4f} ± {row['auc_minus_base_se']:.4f}"
        gain = "" if is_base else f"{row['relaimpr']:+.2f} %"
        lines.append(
            f"| {name} | {test['auc']:.4f} ± {row['auc_se']:.4f} | {difference} | {gain} "
            f"| {_number(test['gauc'])} | {test['logloss']:.4f} | {_number(test['calibration'])} |"
        )
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _scores(run: Path, like: Evaluation) -> Evaluation:
    try:
        logits = np.load(run / SCORES, allow_pickle=False)
    except (OSError, ValueError):
        raise DataError(f"{run / SCORES}: missing or damaged; train again with --restart") from None
    if len(logits) != len(like.labels):
        raise DataError(
            f"{run / SCORES}: {len(logits)} scores for {len(like.labels)} test rows; the data set was rebuilt"
        )
    return Evaluation(like.users, like.labels, logits, summarise(like.users, like.labels, logits))


def _familiar(dataset: Dataset, config: RunConfig, epochs: int, own: Evaluation) -> dict[str, Any]:
    if dataset.protocol.labels != "sampled":
        return {}
    return {"familiar_negatives": familiar_negatives(dataset, config, epochs, own)}


def _against(own: Evaluation, base: Evaluation) -> dict[str, float]:
    """AUC's standard error, and the paired difference to the base."""
    return {
        "auc_se": standard_error(own.users, own.labels, [own.logits], lambda aucs: aucs[0]),
        "auc_minus_base": own.metrics["auc"] - base.metrics["auc"],
        "auc_minus_base_se": standard_error(
            own.users, own.labels, [own.logits, base.logits], lambda aucs: aucs[0] - aucs[1]
        ),
        "relaimpr": relative_improvement(own.metrics["auc"], base.metrics["auc"]),
    }
