"""prerank bench: what the package costs in time and memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from prerank.bench.large_log import large_log
from prerank.bench.update_soak import update_soak
from prerank.cli import console

bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure time and memory.")

Json = Annotated[Path | None, typer.Option("--json", help="also write the result to this file")]


@bench.command("log")
def log(
    events: Annotated[int, typer.Option("--events", min=1000, help="events of the log")] = 20_000_000,
    users: Annotated[int, typer.Option("--users", min=10)] = 500_000,
    items: Annotated[int, typer.Option("--items", min=100)] = 300_000,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    json_file: Json = None,
) -> None:
    """Build a generated log of own tables and iterate one epoch: seconds and peak memory of each stage.

    Example: prerank bench log --events 20000000 --json results/large_log.json
    """
    with tempfile.TemporaryDirectory() as directory, console.err.status(f"a log of {events:,} events"):
        result = large_log(events, users, items, seed, Path(directory))
    _show(result)
    console.write_json(json_file, result)


@bench.command("updates")
def updates(
    kills: Annotated[int, typer.Option("--kills", min=1, help="writers to kill")] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    json_file: Json = None,
) -> None:
    """Kill writers of upserts and deletes at random moments: what is replayed must be what a clean rebuild gives.

    Example: prerank bench updates --kills 100 --json results/update_soak.json
    """
    with tempfile.TemporaryDirectory() as directory, console.err.status(f"{kills} kills"):
        result = update_soak(Path(directory), kills, seed)
    table = console.plain_table("of all kills", "value")
    for name, value in result.items():
        table.add_row(name.replace("_", " "), f"{value:,}")
    console.out.print(table)
    console.write_json(json_file, result)


def _show(result: dict[str, Any]) -> None:
    sizes = ", ".join(f"{result[name]:,} {name}" for name in ("events", "users", "items"))
    table = Table("stage", "seconds", "peak GiB so far", title=sizes)
    for name, stage in result["stages"].items():
        table.add_row(name, f"{stage['seconds']:.1f}", f"{stage['peak_gib']:.2f}")
    console.out.print(table)
    console.out.print(f"epoch: {result['epoch_rows']:,} rows, {result['rows_per_second']:,} rows/s")
