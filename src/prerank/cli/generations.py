"""prerank generations and rollback."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from prerank.cli import console
from prerank.publish.history import Published, history, previous, roll_back

Directory = Annotated[Path, typer.Argument(help="a directory of published generations")]


def generations(
    directory: Directory,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the list to this file")] = None,
) -> None:
    """List what is published, the newest first.

    Example: prerank generations published
    """
    every = history(directory)
    before = previous(every)

    def state(one: Published) -> str:
        return "current" if one.current else "previous" if one.name == before else ""

    table = console.plain_table("generation", "model", "state")
    for one in every:
        table.add_row(one.name, one.model or "damaged", state(one))
    console.out.print(table)
    console.write_json(json_file, [{**asdict(one), "state": state(one)} for one in every])


def rollback(
    directory: Directory,
    name: Annotated[str | None, typer.Argument(help="the generation; the one before the current one if none")] = None,
) -> None:
    """Go back to an earlier generation, or to any by its name, after checking its files; whoever serves follows.

    Example: prerank rollback published
    """
    console.out.print(f"{roll_back(directory, name)} is the current generation at {directory}")
