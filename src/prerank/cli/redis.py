"""prerank redis: the shared store of item rows."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from prerank.cli import console
from prerank.cli.bench import Json, bench
from prerank.errors import ConfigError
from prerank.publish.files import verify
from prerank.publish.generation import STORE, locate
from prerank.publish.precision import PRECISIONS
from prerank.publish.shared_store import connect
from prerank.publish.shared_store import push as push_rows
from prerank.publish.store import ItemStore

TIMEOUT = 30.0  # seconds that the server may take for one command
PASSWORD = "PRERANK_REDIS_PASSWORD"

redis = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Share item rows between many services.")


@redis.command("push")
def push(
    directory: Annotated[Path, typer.Argument(help="a directory of published generations")],
    url: Annotated[str, typer.Argument(help="of the server: redis://HOST:PORT/DB, rediss://… or unix://PATH")],
    keep: Annotated[float, typer.Option("--keep", help="seconds that rows of other generations stay")] = 3600.0,
) -> None:
    """Write the rows of the current generation to a server of the Redis protocol; rows of others expire.

    A push that was interrupted goes on where it was. The server's password may be in the environment variable
    PRERANK_REDIS_PASSWORD instead of the URL.

    Example: prerank redis push published redis://rows.internal:6379/0
    """
    if not keep > 0:
        raise ConfigError(f"--keep {keep:g}: expected seconds above 0")
    place = locate(directory)
    verify(place)
    store = ItemStore.open(place / STORE)
    server = connect(url, TIMEOUT, os.environ.get(PASSWORD))
    with console.EncodingDisplay("pushed") as display:
        there, expiring = push_rows(store, server, keep, lambda rows: display.progress(rows, len(store)))
    went_on = f", {there:,} of them were there" if there else ""
    old = f"; {expiring:,} rows of other generations expire in {keep:g} seconds" if expiring else ""
    console.out.print(f"{len(store):,} rows of generation {store.generation} are at the server{went_on}{old}")


@bench.command("redis")
def measure(
    items: Annotated[int, typer.Option("--items", min=1000, help="rows of the store")] = 1_000_000,
    width: Annotated[int, typer.Option("--width", min=1)] = 128,
    dtype: Annotated[str, typer.Option("--dtype", help="of the rows")] = "float16",
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="rows of a request")] = 2000,
    repeats: Annotated[int, typer.Option("--repeats", min=10, help="timed requests")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    json_file: Json = None,
) -> None:
    """Rows from a real Redis on this machine against rows of the local store.

    Example: prerank bench redis --json results/shared_store.json
    """
    if find_spec("redis") is None or find_spec("starlette") is None:
        raise ConfigError("prerank bench redis: needs more packages; pip install 'prerank[serve,redis]'")
    from prerank.bench.shared_store import shared_store_bench  # noqa: PLC0415  # of the packages of an extra

    precision = next((name for name in PRECISIONS if name == dtype), None)
    if precision is None:
        raise ConfigError(f"--dtype {dtype}: unknown; dtypes: {', '.join(PRECISIONS)}")
    with tempfile.TemporaryDirectory() as place, console.err.status(f"{items:,} rows"):
        result = shared_store_bench(Path(place), items, width, precision, candidates, repeats, seed)
    table = console.plain_table("rows from", "p50 ms", "p99 ms")
    for name, times in result["ways"].items():
        table.add_row(name, f"{times['p50_ms']:.2f}", f"{times['p99_ms']:.2f}")
    console.out.print(table)
    console.out.print(f"{result['row_bytes']:.0f} bytes a row, {result['redis_bytes_a_row']:.0f} in Redis")
    console.write_json(json_file, result)
