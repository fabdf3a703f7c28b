"""What many requests leave in a process, and what a large catalogue costs in encoding and in latency."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch

from prerank.bench.environment import environment
from prerank.bench.latency import MAIN, REQUESTS, Progress, one_thread, whole
from prerank.bench.latency_world import (
    Request,
    catalogue,
    item_bytes,
    opened,
    publish,
    random_bundle,
    random_requests,
    scoring,
)
from prerank.bench.timing import interleaved, quantiles
from prerank.publish.generation import open_generation

PARTS = 20  # of a soak, after each of which memory is read
ASKED = 100  # requests that are there at one time
MODELS = ("fit", "two_tower")


def soak(directory: Path, items: int, requests: int, seed: int, progress: Progress) -> dict[str, Any]:
    """Answer so many random requests, from raw values to ranked ids, and read this process's memory meanwhile.

    Args:
        directory: an empty one.
        items: in the catalogue.
        requests: to FIT; each is a new one.
        seed: of weights, catalogue and requests.
        progress: called with (what is being done, requests done, requests in all).

    Returns:
        The resident memory after each twentieth, all of it and without mapped files, in MiB.
    """
    place = directory / "fit"
    publish(random_bundle("fit", items, seed), catalogue(items, seed).lazy(), place, "float32", None)
    served, _ = opened(place)
    answer, size = whole(served), max(1, requests // PARTS)
    memory = []
    with one_thread():
        for part in range(PARTS):
            progress("requests", part * size, PARTS * size)
            for begun in range(0, size, ASKED):
                asked, number = min(ASKED, size - begun), part * size + begun
                for request in random_requests(served, asked, MAIN.candidates, MAIN.history, items, seed + number):
                    answer(request)
            memory.append(_resident())
    # the first tenth touches the store's pages and the working memory
    early, late = memory[PARTS // 10], memory[-1]
    return {
        "items": items,
        "requests": PARTS * size,
        "resident_mib": [all_of_it for all_of_it, _ in memory],
        "anonymous_mib": [anonymous for _, anonymous in memory],
        "growth_after_a_tenth_mib": late[0] - early[0],
        "anonymous_growth_after_a_tenth_mib": late[1] - early[1],
        "environment": environment(),
    }


def large(directory: Path, small: int, items: int, repeats: int, seed: int, progress: Progress) -> dict[str, Any]:
    """Encode a large catalogue and a small one, as float16, and time requests to both in turn.

    Args:
        directory: an empty one; the item table and the stores take some 600 bytes an item there.
        small: items of the one.
        items: of the other.
        repeats: requests to each.
        seed: of weights, catalogue and requests.
        progress: called with (what is being done, steps done, steps in all).

    Returns:
        Of each encoding, in a process of its own, rows a second and peak memory; milliseconds, and their ratios.
    """
    sizes, encoded = {"small": small, "large": items}, {}
    progress("item tables", 0, 4)
    _in_new_process(_write_catalogues, directory, sizes, seed)
    for number, (name, count) in enumerate(sizes.items(), start=1):
        progress(f"encoding {count:,} items", number, 4)
        encoded[name] = _in_new_process(_encode, directory, name, count, seed)
    progress("requests", 3, 4)
    found: dict[str, Any] = {}
    for model in MODELS:
        ways: dict[str, Callable[[int], Any]] = {}
        for name, count in sizes.items():
            met, requests = open_generation(directory / f"{model}-{name}", preload=True), max(repeats, REQUESTS)
            some = random_requests(met, requests, MAIN.candidates, MAIN.history, count, seed)
            ways[name] = partial(_answer, scoring(met), some, REQUESTS)
            for number in range(REQUESTS):  # what comes again is warm, and so are its histories' items
                ways[name](number)
            ways[f"{name}, unmet"] = partial(
                _answer, scoring(open_generation(directory / f"{model}-{name}")), some, requests
            )
        with one_thread():
            times = interleaved(ways, range(max(repeats, REQUESTS)), repeats, 60.0)
        found[model] = {name: quantiles(seconds) for name, seconds in times.items()}
        for kind in ("", ", unmet"):
            ratio = found[model][f"large{kind}"]["p50_ms"] / found[model][f"small{kind}"]["p50_ms"]
            found[model][f"large/small{kind}"] = ratio
    return {"items": sizes, "dtype": "float16", "encoded": encoded, **found, "environment": environment()}


def _answer(way: Callable[[Request], Any], requests: Sequence[Request], different: int, number: int) -> Any:
    return way(requests[number % different])


def _write_catalogues(directory: Path, sizes: dict[str, int], seed: int) -> None:
    for name, count in sizes.items():
        catalogue(count, seed).write_parquet(directory / f"{name}.parquet")


def _encode(directory: Path, name: str, items: int, seed: int) -> dict[str, Any]:
    result = {}
    for model in MODELS:
        bundle, place = random_bundle(model, items, seed), directory / f"{model}-{name}"
        before, begun = _peak_gib(), time.perf_counter()
        publish(bundle, pl.scan_parquet(directory / f"{name}.parquet"), place, "float16", None)
        seconds = time.perf_counter() - begun
        result[model] = {
            "seconds": seconds,
            "items_per_second": items / seconds,
            "item_bytes": item_bytes(place),
            "peak_gib_before": before,
            "peak_gib": _peak_gib(),
            "threads": torch.get_num_threads(),
        }
    return result


def _in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def _resident() -> tuple[float, float]:
    """MiB of this process in memory: with mapped files as far as they were touched, and without."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    sizes = dict(line.split(":") for line in lines if line.startswith(("VmRSS", "RssAnon")))
    return tuple(int(sizes[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))  # type: ignore[return-value]


def _peak_gib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)
