"""prerank cascade."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from prerank.cli import console
from prerank.errors import ConfigError
from prerank.study.cascade import Wanted
from prerank.study.cascade import cascade as simulate
from prerank.study.cascade_report import draw, markdown


def cascade(
    runs: Annotated[list[Path], typer.Argument(help="finished run directories, the pre-rankers")],
    judge: Annotated[Path, typer.Option("--judge", help="the run that ranks what they let through")],
    recall: Annotated[str, typer.Option("--recall", help="popularity, random, or a run directory")] = "popularity",
    candidates: Annotated[int, typer.Option("--candidates", min=2, help="of each user")] = 2000,
    top: Annotated[
        str, typer.Option("--top", help="how many of the judge's best; the lists that are shown")
    ] = "10,50,100",
    cut: Annotated[str, typer.Option("--cut", help="how many candidates a pre-ranker lets through")] = "100,200,500",
    users: Annotated[int, typer.Option("--users", min=1, help="of the test part")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of users and random candidates")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the result to this file")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="also draw: .png, .svg, .pdf")] = None,
) -> None:
    """Simulate recall, pre-ranking and ranking: what pre-rankers let through, how fast, from how many bytes.

    Example: prerank cascade runs/ml-1m/two_tower runs/ml-1m/fit --judge runs/ml-1m/din --json results/cascade.json
    """
    tops, cuts = _numbers("--top", top), _numbers("--cut", cut)
    if cuts[0] < tops[-1]:
        raise ConfigError(f"--cut {cuts[0]}: lets fewer through than --top {tops[-1]} shows")
    if cuts[-1] > candidates:
        raise ConfigError(f"--cut {cuts[-1]}: more than there are --candidates, {candidates}")
    wanted = Wanted(judge, recall, candidates, tops, cuts, users, seed)
    with tempfile.TemporaryDirectory() as directory, console.StepsDisplay() as display:
        result = simulate(runs, wanted, Path(directory), display.progress)
    console.out.print(markdown(result), markup=False)
    console.write_json(json_file, result)
    if figure is not None:
        draw(result, figure)


def _numbers(option: str, text: str) -> list[int]:
    """Whole numbers of a list with commas, ascending."""
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise ConfigError(f"{option} {text}: expected whole numbers from 1 on, separated by commas, such as 10,50")
    return numbers
