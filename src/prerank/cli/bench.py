"""prerank bench: what the package costs in time and memory."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from prerank.bench.fault_soak import fault_soak
from prerank.bench.large_log import large_log
from prerank.bench.latency import Wanted
from prerank.bench.latency import latency as measure_latency
from prerank.bench.latency_report import draw, markdown
from prerank.bench.latency_soak import large as measure_large
from prerank.bench.latency_soak import soak as measure_soak
from prerank.bench.precision import precision as measure_precision
from prerank.bench.service_soak import service_soak
from prerank.bench.store import HEADINGS, store_bench
from prerank.bench.store import table as store_table
from prerank.bench.update_soak import update_soak
from prerank.cli import console
from prerank.cli.bench_load import load, serving
from prerank.cli.bench_training import training
from prerank.data.log import Dataset
from prerank.errors import ConfigError
from prerank.models.registry import MODELS
from prerank.publish.bundle import load_bundle
from prerank.study.experiment import BUNDLE, finished

bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure time and memory.")

bench.command("load")(load)
bench.command("serving")(serving)
bench.command("training")(training)

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


@bench.command("service")
def service(
    swaps: Annotated[int, typer.Option("--swaps", min=1, help="changes of generation under load")] = 50,
    bad: Annotated[int, typer.Option("--bad", min=0, help="damaged generations in between")] = 20,
    steady: Annotated[float, typer.Option("--steady", min=0, help="seconds of load before")] = 5,
    workers: Annotated[int, typer.Option("--workers", min=1, help="processes that answer")] = 1,
    rate: Annotated[float, typer.Option("--rate", min=0, help="requests a second; 0: as many as are answered")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    json_file: Json = None,
) -> None:
    """Change the generation of a service under load: no request may fail or get an answer of two generations.

    Example: prerank bench service --swaps 50 --bad 20 --json results/service_soak.json
    """
    with tempfile.TemporaryDirectory() as directory, console.err.status(f"{swaps} swaps"):
        result = service_soak(Path(directory), swaps, bad, steady, seed, workers, rate)
    _lines(result)
    console.write_json(json_file, result)


@bench.command("faults")
def faults(
    requests: Annotated[int, typer.Option("--requests", min=8, help="whose counts are compared")] = 10_000,
    worker_kills: Annotated[int, typer.Option("--worker-kills", min=0)] = 10,
    publisher_kills: Annotated[int, typer.Option("--publisher-kills", min=0)] = 100,
    switches: Annotated[int, typer.Option("--switches", min=1, help="of each of eight threads")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    json_file: Json = None,
) -> None:
    """Kill workers and publishers of a service under load, and switch from many threads at once.

    Example: prerank bench faults --json results/fault_soak.json
    """
    with tempfile.TemporaryDirectory() as directory, console.err.status("kills"):
        result = fault_soak(Path(directory), requests, worker_kills, publisher_kills, switches, seed)
    _lines(result)
    console.write_json(json_file, result)


@bench.command("store")
def store(
    items: Annotated[int, typer.Option("--items", min=1000, help="rows of each store")] = 1_000_000,
    large: Annotated[int, typer.Option("--large", min=0, help="rows of a further float16 store")] = 10_000_000,
    width: Annotated[int, typer.Option("--width", min=1)] = 128,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="ids of a request")] = 2000,
    repeats: Annotated[int, typer.Option("--repeats", min=10, help="timed requests")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    directory: Annotated[Path | None, typer.Option("--in", help="folder for temporary files")] = None,
    json_file: Json = None,
) -> None:
    """Open item stores and look up and gather random items, against LMDB and a real Redis, as far as installed.

    Example: prerank bench store --json results/store.json
    """
    with tempfile.TemporaryDirectory(dir=directory) as place, console.err.status(f"stores of {items:,} items"):
        result = store_bench(Path(place), items, large, width, candidates, repeats, seed)
    table = console.plain_table(*HEADINGS)
    for row in store_table(result):
        table.add_row(*row)
    console.out.print(table)
    console.write_json(json_file, result)


@bench.command("precision")
def precision(
    run: Annotated[Path, typer.Argument(help="a finished run directory")],
    requests: Annotated[int, typer.Option("--requests", min=1, help="whose best items are compared")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    json_file: Json = None,
) -> None:
    """Evaluate a run from item stores of every precision: AUC, and whether the best items stay the same.

    Example: prerank bench precision runs/ml-1m/fit --json results/precision.json
    """
    config, _ = finished(run)
    with tempfile.TemporaryDirectory() as place, console.err.status("stores of every precision"):
        bundle, dataset = load_bundle(run / BUNDLE), Dataset.load(config.data)
        result = measure_precision(bundle, dataset, Path(place), requests, seed)
    columns = ("precision", "bytes a row", "share", "AUC", "difference", "same best", "up to ties", "shared")
    table = console.plain_table(*columns)
    for name, one in result["precisions"].items():
        table.add_row(
            name,
            f"{one['row_bytes']:.0f}",
            f"{one['row_bytes_share']:.3f}",
            f"{one['auc']:.5f}",
            f"{one['auc_difference']:+.6f}",
            *(f"{one[key]:,}" for key in ("same_best", "same_best_up_to_ties")),
            f"{one['shared_of_best']:.4f}",
        )
    console.out.print(table)
    console.write_json(json_file, result)


@bench.command("latency")
def latency(
    models: Annotated[str, typer.Option("--models", help="separated by commas; FIT and Two-Tower are always there")] = (
        ",".join(MODELS)
    ),
    items: Annotated[int, typer.Option("--items", min=1000, help="of the catalogue")] = 500_000,
    quick: Annotated[bool, typer.Option("--quick", help="the main row only: FIT, Two-Tower and the floor")] = False,
    every: Annotated[bool, typer.Option("--every", help="all combinations, not one axis at a time")] = False,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="requests of each way at most")] = 3000,
    budget: Annotated[float, typer.Option("--budget", min=0, help="seconds of each way and setting at most")] = 0.5,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    directory: Annotated[Path | None, typer.Option("--in", help="folder for temporary files")] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="draw p50 against candidates: .png, .svg, .pdf")
    ] = None,
    json_file: Json = None,
) -> None:
    """Time requests of published models with random weights: as served, naive, and the least that FIT's can take.

    Example: prerank bench latency --quick --json results/latency-quick.json
    """
    chosen = [name.strip() for name in models.split(",") if name.strip()]
    wrong = next((name for name in chosen if name not in MODELS), None)
    if wrong is not None:
        raise ConfigError(f"--models {wrong}: unknown; models: {', '.join(MODELS)}")
    if figure is not None and quick:
        raise ConfigError("--figure: --quick measures one number of candidates only")
    wanted = Wanted(chosen, items, quick, every, repeats, budget, seed)
    with tempfile.TemporaryDirectory(dir=directory) as place, console.StepsDisplay() as display:
        result = measure_latency(Path(place), wanted, display.progress)
    console.out.print(markdown(result), markup=False)
    console.write_json(json_file, result)
    if figure is not None:
        draw(result, figure)


@bench.command("soak")
def soak(
    requests: Annotated[int, typer.Option("--requests", min=20, help="to one process")] = 100_000,
    items: Annotated[int, typer.Option("--items", min=1000, help="of the catalogue")] = 500_000,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    directory: Annotated[Path | None, typer.Option("--in", help="folder for temporary files")] = None,
    json_file: Json = None,
) -> None:
    """Answer many requests with FIT and read the process's memory meanwhile.

    Example: prerank bench soak --requests 100000 --json results/latency-soak.json
    """
    with tempfile.TemporaryDirectory(dir=directory) as place, console.StepsDisplay() as display:
        result = measure_soak(Path(place), items, requests, seed, display.progress)
    table = console.plain_table("requests", "resident MiB", "without mapped files MiB")
    for part, sizes in enumerate(zip(result["resident_mib"], result["anonymous_mib"], strict=True), start=1):
        done = result["requests"] * part // len(result["resident_mib"])
        table.add_row(f"{done:,}", *(f"{size:.1f}" for size in sizes))
    console.out.print(table)
    console.write_json(json_file, result)


@bench.command("large")
def large(
    items: Annotated[int, typer.Option("--items", min=1000, help="of the large catalogue")] = 10_000_000,
    small: Annotated[int, typer.Option("--small", min=1000, help="of the one that it is compared with")] = 500_000,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="requests to each")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    directory: Annotated[Path | None, typer.Option("--in", help="folder for temporary files")] = None,
    json_file: Json = None,
) -> None:
    """Encode a large catalogue as float16: time, memory, and the latency of requests against that of a small one.

    Example: prerank bench large --items 10000000 --json results/latency-large.json
    """
    with tempfile.TemporaryDirectory(dir=directory) as place, console.StepsDisplay() as display:
        result = measure_large(Path(place), small, items, repeats, seed, display.progress)
    table = console.plain_table("model", "items", "items/s", "peak GiB", "p50 ms", "p99 ms")
    for model in ("fit", "two_tower"):
        for name, count in result["items"].items():
            encoded, times = result["encoded"][name][model], result[model][name]
            cells = [f"{encoded['items_per_second']:,.0f}", f"{encoded['peak_gib']:.2f}"]
            table.add_row(model, f"{count:,}", *cells, f"{times['p50_ms']:.2f}", f"{times['p99_ms']:.2f}")
    console.out.print(table)
    console.write_json(json_file, result)


def _show(result: dict[str, Any]) -> None:
    sizes = ", ".join(f"{result[name]:,} {name}" for name in ("events", "users", "items"))
    table = Table("stage", "seconds", "peak GiB so far", title=sizes)
    for name, stage in result["stages"].items():
        table.add_row(name, f"{stage['seconds']:.1f}", f"{stage['peak_gib']:.2f}")
    console.out.print(table)
    console.out.print(f"epoch: {result['epoch_rows']:,} rows, {result['rows_per_second']:,} rows/s")


def _lines(result: dict[str, Any]) -> None:
    for name, value in result.items():
        console.out.print(f"{name.replace('_', ' ')}: {json.dumps(value)}", markup=False)
