"""prerank study: the tables and figures of the papers, run again; prerank tune: with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prerank.cli import console
from prerank.data.log import Dataset
from prerank.errors import ConfigError, DataError
from prerank.study.figures import require
from prerank.study.papers.cells import Plan, parse_seeds
from prerank.study.papers.definition import StudyData, find_data, find_study, study_names
from prerank.study.papers.efficiency import Effort, measure
from prerank.study.papers.elsewhere import read_results, still_to_train
from prerank.study.papers.figure import draw
from prerank.study.papers.outcome import gather
from prerank.study.papers.report import markdown
from prerank.study.papers.runner import run_cells
from prerank.study.tuning import tune as search
from prerank.study.tuning import write_best
from prerank.training.config import read_run


def study(
    name: Annotated[str, typer.Argument(help=", ".join(study_names()))],
    dataset: Annotated[str | None, typer.Option("--dataset", help="ml-1m, amazon-sports, …; decides protocol")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="the built data set; data/DATASET if not given")] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="5 (if not given) is 1 to 5; 1,3 and 4-6 name them")
    ] = None,
    only: Annotated[str | None, typer.Option("--only", help="rows to train, separated by commas")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="processes of one thread each")] = 1,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="bound of each training")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="change a key of every row")] = None,
    tuned: Annotated[Path | None, typer.Option("--tuned", help="folder with ROW.yaml of prerank tune")] = None,
    collect: Annotated[bool, typer.Option("--collect", help="train nothing, gather what has finished")] = False,
    add: Annotated[
        list[Path] | None, typer.Option("--add", help="a study's JSON from elsewhere; its seeds join")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder of the runs; runs/DATASET if not given")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the result to this file")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="also draw: .png, .svg, .pdf")] = None,
) -> None:
    """Train the rows of a table or figure with several seeds and put them beside the paper's values.

    Finished runs are kept and shared between studies, interrupted ones go on; two commands at once share the work.

    Example: prerank study table1 --dataset ml-1m --seeds 5 --jobs 2 --json results/table1-ml-1m.json
    """
    declared = find_study(name)
    known = find_data(dataset) if dataset else None
    if known is None and data is None:
        raise ConfigError("--dataset or --data: one of them says what to train on")
    label = dataset or (data.name if data else "")
    directory = data or Path("data") / label
    _check(known, directory)
    rows = [row.strip() for row in only.split(",") if row.strip()] if only else list(declared.rows)
    wrong = next((row for row in rows if row not in declared.rows), None)
    if wrong is not None:
        raise ConfigError(f"--only {wrong}: no row of {name}; rows: {', '.join(declared.rows)}")
    require("scipy")  # missed now rather than after the training
    plan = Plan(declared, known, directory, out or Path("runs") / label, tuple(changes or ()), epochs, tuned)
    failed, cells = {}, plan.cells(rows, parse_seeds(seeds or "5"))
    if declared.measured:
        if seeds or collect or add or jobs > 1:
            raise ConfigError(f"{name}: measures costs and has no runs; --seeds, --jobs, --collect, --add do not apply")
        with console.StepsDisplay() as steps:
            result = measure(plan, rows, Effort(), steps.progress)
    else:
        results = read_results(plan, add or ())
        cells = still_to_train(cells, results)
        if not collect:
            with console.StudyDisplay() as display:
                failed = run_cells(cells, jobs, display)
        result = gather(plan, results)
    console.out.print(markdown(result), markup=False)
    console.write_json(json_file, result)
    if figure is not None:
        draw(result, figure)
    if failed:
        raise DataError(f"{len(failed)} of {len(cells)} runs failed: {'; '.join(failed)}")


def tune(
    config: Annotated[Path, typer.Argument(help="YAML of the run to tune: data, model, training, seed")],
    trials: Annotated[int, typer.Option("--trials", min=1, help="in all, those of an interrupted search included")],
    storage: Annotated[Path, typer.Option("--storage", help="journal of the trials; a search in it goes on")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="change a key of the run")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the search")] = 1,
    best: Annotated[Path | None, typer.Option("--best", help="write the best configuration here")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write all trials to this file")] = None,
) -> None:
    """Search learning rate, batch, decay and start of embeddings for the best validation AUC, for every model alike.

    Example: prerank tune configs/ml-1m/fit.yaml --trials 12 --storage runs/tune/fit.journal --best tuned/fit.yaml
    """
    tuned = search(read_run(config, changes or ()), trials, storage, console.TrainingDisplay, seed)
    facts = tuned.facts
    names = [key.partition(".")[2].replace("_", " ") for key in facts["space"]]
    listing = console.plain_table("trial", *names, "valid AUC", "")
    for number, trial in enumerate(facts["trials"]):
        values = [f"{value:g}" for value in trial["values"].values()]
        listing.add_row(
            f"{number + 1}", *values, console.number(trial["valid_auc"]), "best" if number == facts["best"] else ""
        )
    console.out.print(listing)
    console.write_json(json_file, facts)
    if best is not None:
        write_best(tuned, read_run(config).data, best)


def _check(known: StudyData | None, directory: Path) -> None:
    """The data set is there, and is the one that the study wants."""
    if known is None:
        Dataset.load(directory)
        return
    if not directory.is_dir():
        raise DataError(f"{directory}: no such data set; build it with: {known.build_command}")
    found = Dataset.load(directory)
    wanted = (known.source, known.preset, *known.set)
    if (found.name, found.protocol) != (known.source, known.protocol):
        raise DataError(f"{directory}: is not {' '.join(wanted)}; build it with: {known.build_command}")
