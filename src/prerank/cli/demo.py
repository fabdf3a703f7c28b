"""prerank demo: everything once, on MovieLens-100K."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prerank.cli import console
from prerank.data.log import Dataset
from prerank.data.sources import open_source
from prerank.data.sources.movielens import fetch_ml100k
from prerank.study.compare import markdown_table
from prerank.study.demo import run_demo
from prerank.study.experiment import describe_dataset


def demo(
    out: Annotated[Path, typer.Option("--out", help="directory of everything that is made")] = Path("runs/demo"),
    source: Annotated[Path, typer.Option("--from", help="folder with MovieLens-100K; fetched if empty")] = Path(
        "data/raw/ml-100k"
    ),
) -> None:
    """MovieLens-100K: build, train Two-Tower and FIT, compare, publish, rank for one user, write a report.

    Example: prerank demo --out runs/demo
    """
    fetch_ml100k(source)
    result = run_demo(open_source("ml-100k", source), out, console.TrainingDisplay)
    console.show_dataset(describe_dataset(Dataset.load(out / "dataset")))
    console.out.print(markdown_table(result.comparison), markup=False)
    ranked = result.ranked
    console.out.print(f"for user {ranked.user}, of {ranked.candidates} films unseen by then:", markup=False)
    for place, film in enumerate(ranked.ranked, start=1):
        later = "  <- rated later" if film["rated_later"] else ""
        line = f"{place:3}. {film['probability']:.3f}  {film['title']}  ({', '.join(film['genres'])}){later}"
        console.out.print(line, markup=False)
    console.out.print(f"report: {result.report}")
