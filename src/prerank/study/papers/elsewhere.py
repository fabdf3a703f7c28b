"""Results from elsewhere: seeds of another machine, or of runs that are gone, join a study by their JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prerank.config import parse
from prerank.data.log import Dataset
from prerank.errors import DataError
from prerank.study.experiment import describe_dataset
from prerank.study.papers.cells import Cell, Plan, difference
from prerank.training.config import RunConfig

Result = Mapping[str, Any]
TRAINED = ("model", "training", "parameters", "seeds")
"""What a result says of a row, besides what follows from it."""


def read_results(plan: Plan, files: Sequence[Path]) -> list[Result]:
    """What files say of this study's rows, which may be another study's rows as well.

    Args:
        plan: the study that they join.
        files: what ``prerank study --json`` has written.

    Raises:
        DataError: a file has none of these rows, is of another data set, or a row of it was configured otherwise.
    """
    described = json.loads(json.dumps(describe_dataset(Dataset.load(plan.directory))))
    return [_read(plan, described, path) for path in files]


def still_to_train(cells: Sequence[Cell], results: Sequence[Result]) -> list[Cell]:
    """The cells that no result has."""
    known = {(name, seed) for result in results for name, row in result["rows"].items() for seed in row["seeds"]}
    return [cell for cell in cells if (cell.row, str(cell.seed)) not in known]


def join(rows: Mapping[str, Result], results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """What is known of each row, in no order: of a seed that is in several places, what comes first counts.

    Args:
        rows: ``training``, ``parameters`` and ``seeds`` of each row that has runs here.
        results: of ``read_results``.
    """
    joined = {name: dict(row) for name, row in rows.items()}
    for name, row in ((name, row) for result in results for name, row in result["rows"].items()):
        known = joined.setdefault(name, {**row, "seeds": {}})
        seeds = {**row["seeds"], **known["seeds"]}
        known["seeds"] = dict(sorted(seeds.items(), key=lambda seed: int(seed[0])))
    return joined


def same_test(test: Result, results: Sequence[Result]) -> Result:
    """A comparison as the first result has it; empty where none has."""
    keys = ("row", "metric", "against")
    every = (each for result in results for each in result["tests"])
    return next((each for each in every if all(each[key] == test[key] for key in keys)), {})


def _read(plan: Plan, described: Mapping[str, Any], path: Path) -> Result:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: result[key] for key in ("dataset", "figure", "tests", "environment", "maps")}
        rows = {name: {key: row[key] for key in TRAINED} for name, row in result["rows"].items()}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path}: is no result of prerank study with trained rows") from None
    shared = {name: row for name, row in rows.items() if name in plan.study.rows}
    kept["maps"] = kept["maps"] if kept["figure"]["kind"] == plan.study.figure.kind else {}
    if not shared:
        raise DataError(f"{path}: has no row of {plan.study.name}")
    if kept["dataset"] != described:
        raise DataError(f"{path}: is of another data set or protocol than {plan.directory}")
    for name, row in shared.items():
        wanted = plan.cell(name, 1).config
        found = parse(RunConfig, {"data": wanted.data, "model": row["model"], "training": row["training"]}, str(path))
        differs = difference(found, wanted)
        if differs:
            raise DataError(f"{path}: {name} {differs}")
    return {**kept, "rows": shared, "elsewhere": result.get("elsewhere", [])}
