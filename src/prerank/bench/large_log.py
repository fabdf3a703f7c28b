"""Memory and time of the data's way on a log far larger than the papers': files to batches of one epoch."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from prerank.data.build import build
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset, Loader
from prerank.data.log import Dataset, Ints, RawLog
from prerank.data.protocol import preset
from prerank.data.sources.synthetic import write_tables
from prerank.data.sources.tables import read_tables
from prerank.schema import Field, Schema

BATCH_ROWS = 2048
DAYS = 90

SCHEMA = Schema(
    user_id="user_id",
    item_id="item_id",
    user=(Field(name="user_id"), Field(name="city"), Field(name="age", kind="numeric")),
    item=(Field(name="item_id"), Field(name="category"), Field(name="price", kind="numeric")),
    history=("item_id", "category"),
)


def large_log(events: int, users: int, items: int, seed: int, directory: Path) -> dict[str, Any]:
    """Build a log of own tables and iterate one epoch of its training batches.

    The log is generated in a process of its own; everything that is measured runs in another one.

    Args:
        events, users, items: size of the log.
        seed: of the log, and of the epoch's order.
        directory: where the tables and the data set are written.

    Returns:
        JSON-ready: the sizes, of each stage the seconds and the peak resident memory so far in GiB, the peak of all,
        the rows and the rows per second of the epoch, and what it ran on.
    """
    _in_new_process(_write_log, events, users, items, seed, directory / "tables")
    measured = _in_new_process(_measure, seed, directory)
    return {"events": events, "users": users, "items": items, "seed": seed, **measured, "environment": _environment()}


def _in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def _write_log(events: int, users: int, items: int, seed: int, directory: Path) -> None:
    """Users of uneven activity, items of uneven popularity, events in no order."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0, 1, users)
    popularity = rng.permutation(1 / (np.arange(items) + 10) ** 0.8)
    log = RawLog(
        "large",
        SCHEMA,
        pl.DataFrame(
            {"user_id": np.arange(users), "city": rng.integers(1000, size=users), "age": rng.integers(99, size=users)}
        ),
        pl.DataFrame(
            {
                "item_id": np.arange(items),
                "category": rng.integers(1000, size=items),
                "price": rng.lognormal(3, 1, items),
            }
        ),
        pl.DataFrame(
            {
                "user": _draw(activity, events, rng),
                "item": _draw(popularity, events, rng),
                "time": rng.integers(DAYS * 86_400, size=events),
            }
        ),
    )
    write_tables(log, directory)


def _draw(weights: np.ndarray[Any, np.dtype[np.float64]], count: int, rng: np.random.Generator) -> Ints:
    edges = np.cumsum(weights)
    drawn: Ints = np.searchsorted(edges, rng.random(count) * edges[-1], side="right")
    return drawn


def _measure(seed: int, directory: Path) -> dict[str, Any]:
    stages: dict[str, dict[str, float]] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        stages[name] = {"seconds": round(time.perf_counter() - begun, 1), "peak_gib": _peak_gib()}

    tables = directory / "tables"
    with stage("read"):
        raw = read_tables(tables / "schema.yaml", tables)
    with stage("build"):
        dataset = build(raw, preset("din"))
    with stage("save"):
        dataset.save(directory / "dataset")
    del raw, dataset
    with stage("load"):
        dataset = Dataset.load(directory / "dataset")
    with stage("encode"):
        data = EncodedDataset(dataset, Encoder.fit(dataset))
    with stage("epoch"):
        batches = Loader(data, "train", BATCH_ROWS, seed).batches()
        rows = sum(batch.labels.numel() for batch in batches)
    return {
        "facts": dataset.facts,
        "stages": stages,
        "peak_gib": _peak_gib(),
        "epoch_rows": rows,
        "rows_per_second": round(rows / max(0.1, stages["epoch"]["seconds"])),
    }


def _peak_gib() -> float:
    """The process's largest resident memory so far; mapped files count as far as they were touched."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)


def _environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "polars": pl.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
