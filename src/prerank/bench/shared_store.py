"""What rows from a shared store cost: a real Redis on the same machine against the local store, in one run."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prerank.bench.store import redis_server
from prerank.bench.timing import interleaved, quantiles
from prerank.errors import ConfigError
from prerank.publish.precision import Precision, Vectors
from prerank.publish.shared_store import connect, push
from prerank.publish.store import ItemStore
from prerank.publish.store_files import Encoded, StoreFiles
from prerank.service.metrics import Metrics
from prerank.service.shared_rows import SharedRows

CHUNK = 65_536
PATIENCE = 5.0  # seconds; nothing is to time out while it is measured


def shared_store_bench(
    directory: Path, items: int, width: int, precision: Precision, candidates: int, repeats: int, seed: int
) -> dict[str, Any]:
    """Measure a store of random rows, on one thread.

    Args:
        directory: an empty one.
        items: rows.
        width: numbers of a row.
        precision: how they are kept.
        candidates: rows of a request.
        repeats: requests that are timed.
        seed: of rows and requests.

    Returns:
        Milliseconds of both ways, what a push takes, and bytes that the server needs for a row.

    Raises:
        ConfigError: redis-server is not installed.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise ConfigError("prerank bench redis: needs the program redis-server")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    try:
        store = _written(directory / "store", items, width, precision, seed)
        with redis_server(program, directory / "redis") as socket:
            url = f"unix://{socket}"
            client = connect(url, PATIENCE)
            before = client.info("memory")["used_memory"]
            begun = time.perf_counter()
            push(store, client, 1.0, lambda _: None)
            pushed = time.perf_counter() - begun
            used = client.info("memory")["used_memory"] - before
            shared = SharedRows(url, PATIENCE, 1, Metrics())
            shared.serve(store)
            while not shared.up:
                time.sleep(0.01)
            requests = [rng.choice(items, candidates, replace=False) for _ in range(50)]
            ways = {"local": lambda asked: _rows(store, asked), "shared": lambda asked: _fetched(shared, store, asked)}
            seconds = interleaved(ways, requests, repeats, budget=60)
            shared.close()
            version = str(client.info()["redis_version"])
            client.close()
    finally:
        torch.set_num_threads(threads)
    times = {name: quantiles(each) for name, each in seconds.items()}
    return {
        "items": items,
        "width": width,
        "precision": precision,
        "candidates": candidates,
        "seed": seed,
        "redis": version,
        "row_bytes": store.rows.nbytes / items,
        "redis_bytes_a_row": used / items,
        "push_seconds": pushed,
        "ways": times,
        "ratio_p50": times["shared"]["p50_ms"] / times["local"]["p50_ms"],
        "added_p50_ms": times["shared"]["p50_ms"] - times["local"]["p50_ms"],
    }


def _written(directory: Path, items: int, width: int, precision: Precision, seed: int) -> ItemStore:
    directory.mkdir()
    files = StoreFiles(directory, items, width, precision, 0, 0)
    files.create()
    rows = Vectors.store(torch.randn((CHUNK, width), generator=torch.Generator().manual_seed(seed)), precision)
    for start in range(0, items, CHUNK):
        count = min(CHUNK, items - start)
        files.write(start, Encoded(np.empty((count, 0), dtype=np.uint16), rows.part(0, count), None))
    files.finish("bench", "int", 0, np.arange(items, dtype=np.int64), None)
    return ItemStore.open(directory, preload=True)


def _rows(store: ItemStore, positions: Any) -> Any:
    rows, places = store.floats(positions)
    return rows[places]


def _fetched(shared: SharedRows, store: ItemStore, positions: Any) -> Any:
    fetched, degraded = shared.fetch(store, positions)
    assert not degraded
    return _rows(fetched, positions)
