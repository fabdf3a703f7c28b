"""prerank fit, evaluate and compare."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from prerank.cli import console
from prerank.config import override
from prerank.data.log import PARTS
from prerank.errors import ConfigError
from prerank.study.compare import compare_runs, markdown_table
from prerank.study.experiment import CONFIG, evaluate_run, run_experiment
from prerank.study.selection import RETRAIN, Method, select_fields
from prerank.training.config import read_run

Json = Annotated[Path | None, typer.Option("--json", help="also write the result to this file")]


def fit(
    config: Annotated[Path, typer.Argument(help="YAML: data, model, training, seed")],
    out: Annotated[Path, typer.Option("--out", help="run directory; an interrupted run in it continues")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="change a key: --set training.seed=2")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="delete the run directory first")] = False,
) -> None:
    """Train a model and evaluate it on the test part by the served path.

    Example: prerank fit configs/ml-1m/fit.yaml --out runs/ml-1m/fit --set seed=2
    """
    run_config = read_run(config, changes or ())
    if restart and out.exists():
        if not (out / "config.yaml").is_file():
            raise ConfigError(f"--restart: {out} is not a run directory, nothing was deleted")
        shutil.rmtree(out)
    with console.TrainingDisplay(run_config.architecture.model_dump()["name"]) as display:
        report = run_experiment(run_config, out, display)
    console.show_metrics(f"{out}: test part", report["test"])
    console.show_unknown("test", report["unknown_share"]["test"])
    console.show_metrics("popularity, for comparison", report["popularity"]["test"])


def evaluate(
    run: Annotated[Path, typer.Argument(help="a finished run directory")],
    part: Annotated[str, typer.Option("--part", help="train, valid or test")] = "test",
    json_file: Json = None,
) -> None:
    """Evaluate a finished run again, from its bundle.

    Example: prerank evaluate runs/ml-1m/fit --part valid
    """
    if part not in PARTS:
        raise ConfigError(f"--part {part}: unknown; parts: {', '.join(PARTS)}")
    metrics = evaluate_run(run, part).metrics
    console.show_metrics(f"{run}: {part} part", metrics)
    console.write_json(json_file, metrics)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="finished run directories; the first is the base")],
    base: Annotated[str | None, typer.Option("--base", help="name of the run to compare with")] = None,
    json_file: Json = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="also write the table to this file")] = None,
) -> None:
    """Compare runs on one data set, with standard errors over users.

    Example: prerank compare runs/ml-1m/two_tower runs/ml-1m/fit --json results/ml-1m.json
    """
    comparison = compare_runs(runs, base)
    table = markdown_table(comparison)
    console.out.print(table, markup=False)
    console.write_json(json_file, comparison)
    if markdown is not None:
        markdown.write_text(table, encoding="utf-8")


def select(
    source: Annotated[Path, typer.Argument(help="YAML or run directory of the model that shall have fewer fields")],
    keep: Annotated[int, typer.Option("--keep", help="how many fields to keep")],
    out: Annotated[Path, typer.Option("--out", help="directory of the selection; an interrupted one continues")],
    method: Annotated[str, typer.Option("--method", help="se (COLD's weights) or fscd (gates that know costs)")] = "se",
    changes: Annotated[list[str] | None, typer.Option("--set", help="change a key of the run")] = None,
    settings: Annotated[list[str] | None, typer.Option("--selector", help="set a key of the selector")] = None,
) -> None:
    """Choose the fields that a model reads, and write the configuration to train it again from those.

    Example: prerank select configs/ml-1m/cold.yaml --keep 6 --out runs/ml-1m/cold-selection --method fscd
    """
    if method not in get_args(Method):
        raise ConfigError(f"--method {method}: unknown; methods: {', '.join(get_args(Method))}")
    config = read_run(source / CONFIG if source.is_dir() else source, changes or ())
    with console.TrainingDisplay(f"selector {method}") as display:
        chosen = cast("Method", method)
        selection = select_fields(config, out, keep, chosen, override({}, settings or ()), display)
    table = console.plain_table("field", "importance", "kept")
    for field in selection["fields"]:
        table.add_row(field["field"], console.number(field["importance"]), "yes" if field["kept"] else "")
    console.out.print(table)
    console.out.print(f"train again: prerank fit {out / RETRAIN} --out RUN", markup=False)
