"""prerank data: build a data set from files, and show one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from prerank.cli import console
from prerank.data.build import build
from prerank.data.log import Dataset
from prerank.data.protocol import PRESETS, preset
from prerank.data.sources import SOURCES, download_source, open_source
from prerank.data.sources.tables import read_tables
from prerank.study.experiment import describe_dataset

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Build and show data sets.")

Changes = Annotated[list[str] | None, typer.Option("--set", help="change a protocol key: --set ties=shuffled")]
Json = Annotated[Path | None, typer.Option("--json", help="also write the facts to this file")]


@data.command("build")
def build_dataset(
    name: Annotated[str, typer.Argument(help=f"{', '.join(SOURCES)}, or the YAML file of own tables")],
    source: Annotated[Path, typer.Option("--from", help="folder with the source's files")],
    target: Annotated[Path, typer.Option("--to", help="folder of the built data set")],
    protocol: Annotated[str | None, typer.Option("--preset", help=f"protocol: {', '.join(PRESETS)}")] = None,
    changes: Changes = None,
    match: Annotated[
        list[str] | None,
        typer.Option("--match", help="count, as a pair feature, past behaviours that share this field's value"),
    ] = None,
    fetch: Annotated[bool, typer.Option("--download", help="fetch missing official files into --from")] = False,
    json_file: Json = None,
) -> None:
    """Build a data set: read, order, split, sample negatives, audit for leaks.

    Example: prerank data build ml-1m --from raw/ml-1m --to data/ml-1m --preset fit --set ties=shuffled
    """
    if name.endswith((".yaml", ".yml")):
        raw, default = read_tables(Path(name), source), "din"
        if "label" in raw.events.columns:
            default = "impressions"
    else:
        if fetch:
            download_source(name, source)
        raw = open_source(name, source)
        default = SOURCES[name].preset
    raw = replace(raw, schema=raw.schema.counting(match or ()))
    dataset = build(raw, preset(protocol or default, changes or ()))
    dataset.save(target)
    description = describe_dataset(dataset)
    console.show_dataset(description)
    console.write_json(json_file, description)


@data.command("show")
def show(
    directory: Annotated[Path, typer.Argument(help="a built data set")],
    json_file: Json = None,
) -> None:
    """Show a built data set's facts and leak audit.

    Example: prerank data show data/ml-1m
    """
    description = describe_dataset(Dataset.load(directory))
    console.show_dataset(description)
    console.write_json(json_file, description)
