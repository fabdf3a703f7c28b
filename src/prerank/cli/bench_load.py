"""prerank bench load and serving: what a service can do, measured from outside of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from prerank.cli import console
from prerank.cli.serve import NEEDED
from prerank.errors import ConfigError

Json = Annotated[Path | None, typer.Option("--json", help="also write the result to this file")]
Seed = Annotated[int, typer.Option("--seed", min=0)]
SHARES = ("p50", "p90", "p99", "p99.9", "max")


def load(
    url: Annotated[str | None, typer.Option("--url", help="of a service; one is started unless told")] = None,
    requests: Annotated[
        Path | None, typer.Option("--requests", help="to send, one JSON request a line; random ones unless told")
    ] = None,
    payload: Annotated[str, typer.Option("--payload", help="json, or binary: the open protocol's tensors")] = "json",
    rate: Annotated[float, typer.Option("--rate", min=0.1, help="requests that are due in a second")] = 100,
    poisson: Annotated[
        bool, typer.Option("--poisson", help="due at random times, as of many clients; at equal distances otherwise")
    ] = False,
    closed: Annotated[
        bool, typer.Option("--closed", help="no rate: on each connection the next one follows the answer")
    ] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1)] = 10,
    connections: Annotated[int, typer.Option("--connections", min=1, max=900)] = 64,
    with_wrk: Annotated[
        bool, typer.Option("--wrk", help="measure with wrk, too, which sends as with --closed")
    ] = False,
    model: Annotated[str, typer.Option("--model", help="of the service that is started: random weights")] = "fit",
    items: Annotated[int, typer.Option("--items", min=1000, help="of its catalogue")] = 100_000,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="of a random request")] = 2000,
    history: Annotated[int, typer.Option("--history", min=0, help="past items of a random request")] = 50,
    k: Annotated[int, typer.Option("-k", min=1, help="that a random request asks for")] = 100,
    changes: Annotated[list[str] | None, typer.Option("--set", help="a setting of the service: key=value")] = None,
    seed: Seed = 1,
    json_file: Json = None,
) -> None:
    """Send requests when they are due, whether or not the ones before were answered, and tell how long answers took.

    Example: prerank bench load --url http://127.0.0.1:8000 --requests requests.jsonl --rate 200 --seconds 30

    prerank bench load --payload binary --rate 100 --json load.json
    """
    _check()
    from prerank.bench import load as generator  # noqa: PLC0415  # of the packages of an extra
    from prerank.bench.load_payloads import PAYLOADS, random_asked, read_requests  # noqa: PLC0415
    from prerank.bench.wrk import wrk  # noqa: PLC0415
    from prerank.models.registry import MODELS  # noqa: PLC0415

    if payload not in PAYLOADS:
        raise ConfigError(f"--payload {payload}: unknown; payloads: {', '.join(PAYLOADS)}")
    if model not in MODELS:
        raise ConfigError(f"--model {model}: unknown; models: {', '.join(MODELS)}")
    if url is not None and requests is None:
        raise ConfigError("--requests: a file is needed with --url; what its items are called is not known here")
    if url is None and requests is not None:
        raise ConfigError("--requests: only with --url; the service that is started knows random items only")
    if candidates > items:
        raise ConfigError(f"--candidates {candidates}: the catalogue has {items} items")
    asked = (
        random_asked(200, candidates, history, items, k, seed) if requests is None else read_requests(requests, 10_000)
    )
    bodies = [PAYLOADS[payload](one) for one in asked]
    with tempfile.TemporaryDirectory() as place, _service(url, Path(place), model, items, seed, changes or []) as at:
        result: dict[str, Any] = {"payload": payload, "connections": connections}
        if closed:
            measured = generator.closed_loop(at, bodies, seconds, connections)
        else:
            due = generator.poisson(rate, seconds, seed) if poisson else generator.constant(rate, seconds)
            result |= {"rate": rate, "arrivals": "poisson" if poisson else "constant"}
            measured = generator.open_loop(at, bodies, due, connections)
        result |= generator.summary(measured)
        if with_wrk:
            result["wrk"] = wrk(at, bodies, seconds, connections, Path(place) / "wrk")
    _show(result)
    if with_wrk and result["wrk"] is None:
        console.err.print("wrk is not installed, so nothing was checked: apt install wrk")
    console.write_json(json_file, result)


def serving(
    part: Annotated[str, typer.Argument(help="overhead, saturation or overload")],
    items: Annotated[int, typer.Option("--items", min=2000, help="of the catalogue")] = 100_000,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="of each measurement")] = 10,
    overload: Annotated[float, typer.Option("--overload-seconds", min=1, help="of the overload")] = 60,
    model: Annotated[str, typer.Option("--model", help="with random weights")] = "fit",
    seed: Seed = 1,
    json_file: Json = None,
) -> None:
    """Measure the service: what HTTP adds to a request, how many it answers at most, what too many do to it.

    Example: prerank bench serving saturation --json results/serving-saturation.json
    """
    _check("fastapi")
    from prerank.bench import serving_study as study  # noqa: PLC0415  # of the packages of an extra
    from prerank.models.registry import MODELS  # noqa: PLC0415

    parts: dict[str, Callable[..., dict[str, Any]]] = {
        "overhead": study.overhead,
        "saturation": study.saturation,
        "overload": study.overload,
    }
    if part not in parts:
        raise ConfigError(f"{part}: unknown; parts: {', '.join(parts)}")
    if model not in MODELS:
        raise ConfigError(f"--model {model}: unknown; models: {', '.join(MODELS)}")
    wanted = study.Study(model=model, items=items, seconds=seconds, overload_seconds=overload, seed=seed)
    with tempfile.TemporaryDirectory() as place, console.StepsDisplay() as display:
        result = parts[part](Path(place), wanted, display.progress)
    console.out.print_json(data=result)
    console.write_json(json_file, result)


def _check(*more: str) -> None:
    missing = [module for module in (*NEEDED, *more) if find_spec(module) is None]
    if missing:
        raise ConfigError(f"needs {missing[0]}; install it with: pip install 'prerank[bench,serve]'")


@contextmanager
def _service(
    url: str | None, directory: Path, model: str, items: int, seed: int, changes: Sequence[str]
) -> Iterator[str]:
    """The address of the service that is measured."""
    from prerank.bench.load_servers import prerank_service, random_model  # noqa: PLC0415

    if url is not None:
        if changes:
            raise ConfigError("--set: not with --url; that service has its settings")
        yield url
        return
    with console.err.status(f"{model} with {items:,} items"):
        published = random_model(directory, model, items, seed)
    settings = dict(change.split("=", 1) for change in changes if "=" in change)
    if len(settings) < len(changes):
        raise ConfigError("--set: expected key=value, each key once")
    with prerank_service(published, settings, directory / "log") as running:
        yield running.url


def _show(result: dict[str, Any]) -> None:
    table = console.plain_table("", *SHARES)
    names = {"latency_ms": "answer, ms", "refusal_ms": "refusal, ms", "sent_late_ms": "left late, ms"}
    rows = [(title, result.get(name, {})) for name, title in names.items()]
    if result.get("wrk"):
        rows.append(("wrk, ms", result["wrk"]["latency_ms"]))
    for title, row in rows:
        if row:
            table.add_row(title, *(f"{row[share]:.2f}" if share in row else "" for share in SHARES))
    console.out.print(table)
    statuses = ", ".join(f"{status}: {count:,}" for status, count in result["statuses"].items())
    console.out.print(f"{result['answers_per_second']:,} answers a second; {statuses or 'no answer'}")
    for name in ("lost", "unanswered"):
        if result[name]:
            console.out.print(f"{name}: {result[name]:,}")
