"""prerank items: changing the catalogue of what is being served; prerank verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from prerank.cli import console
from prerank.cli.serving import id_list
from prerank.data.sources.tables import read_items
from prerank.errors import RequestError
from prerank.publish.compact import compact as compact_updates
from prerank.publish.generation import locate, open_generation
from prerank.publish.updates import ItemUpdates
from prerank.serving.preranker import PreRanker
from prerank.serving.replay import replay

items = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Change the items of what is being served.")

Published = Annotated[Path, typer.Argument(help="a directory of published generations")]


@items.command("upsert")
def upsert(
    directory: Published,
    file: Annotated[Path, typer.Option("--file", help="items: .parquet, .csv, .csv.gz, or .json (a list of objects)")],
) -> None:
    """Encode items and add them, or replace those with the same ids; whoever serves sees them with the next request.

    Example: prerank items upsert published --file new_items.parquet
    """
    updates = ItemUpdates.open(directory)
    if file.suffix == ".json":
        count = updates.upsert(_records(file))
    else:
        count = updates.upsert(read_items(file, updates.generation.bundle.encoder.schema))
    console.out.print(f"{count:,} items upserted into generation {updates.generation.name}")


@items.command("delete")
def delete(
    directory: Published,
    ids: Annotated[Path, typer.Option("--ids", help="JSON list, or text with one item id a line")],
) -> None:
    """Remove items; whoever serves does not know them any more from the next request on.

    Example: prerank items delete published --ids withdrawn.txt
    """
    updates = ItemUpdates.open(directory)
    count = updates.delete(id_list(ids, "--ids"))
    console.out.print(f"{count:,} ids deleted from generation {updates.generation.name}")


@items.command("compact")
def compact(directory: Published) -> None:
    """Write the current generation with all upserts and deletes as the next one, and switch to it.

    Example: prerank items compact published
    """
    before = locate(directory)
    after = compact_updates(directory)
    if after == before:
        console.out.print(f"generation {before.name} has no updates; nothing to do")
    else:
        console.out.print(f"published {after.name} at {directory}")


def verify(
    directory: Published,
    requests: Annotated[
        Path | None, typer.Option("--requests", help="records that a service sampled, one a line: answer them again")
    ] = None,
) -> None:
    """Check every byte of what is being served, and, with --requests, that it answers as it did.

    Answers are the same if their scores differ by less than 1e-5 and candidates stand where their values put them.
    Those of other generations are skipped. The exit code is 1 if one differs.

    Example: prerank verify published

    prerank verify published --requests sample/requests-20261124T010203-71-000000.jsonl
    """
    generation = open_generation(locate(directory), "full", planned=requests is not None)
    console.out.print(f"generation {generation.name}: every byte is as it was published")
    if requests is None:
        return
    result = replay(PreRanker(generation), requests)
    others = f"; {result.skipped:,} of other generations were skipped" if result.skipped else ""
    if not result.compared:
        raise RequestError(f"--requests {requests}: holds no answer of generation {generation.name}{others}")
    if result.differing:
        message = f"{result.differing:,} of {result.compared:,} answers differ{others}; the first: {result.first}"
        console.err.print(f"error: {message}", markup=False)
        raise typer.Exit(1)
    console.out.print(f"{result.compared:,} answers are as they were{others}", markup=False)


def _records(file: Path) -> list[dict[str, Any]]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise RequestError(f"--file {file}: cannot be read as a text file") from None
    except ValueError as error:
        raise RequestError(f"--file {file}: not valid JSON: {error}") from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise RequestError(f"--file {file}: expected a list of objects, one an item")
    return values
