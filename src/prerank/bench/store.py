"""The item store against LMDB and Redis in one run: opening, and 2,000 random items looked up and gathered."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prerank.publish.files import seal, verify
from prerank.publish.precision import PRECISIONS, Precision, Vectors
from prerank.publish.store import ItemStore
from prerank.publish.store_files import Encoded, StoreFiles

HEADINGS = ("store", "bytes a row", "open cold s", "look-up ms", "both ms", "both p99")
CHUNK = 65_536
WARM_UP = 20
Keys = NDArray[np.int64]


def store_bench(
    directory: Path, items: int, large: int, width: int, candidates: int, repeats: int, seed: int
) -> dict[str, Any]:
    """Measure stores of random rows with random 64-bit ids, on one thread.

    Args:
        directory: an empty one; everything in it is removed again.
        items: rows of the stores that are compared.
        large: rows of a further float16 store; 0 for none.
        width: numbers of a row.
        candidates: ids of a request.
        repeats: requests that are timed.
        seed: of rows, ids and requests.

    Returns:
        Milliseconds (p50, p99) and seconds. A system that is not installed is left out.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    keys = _keys(items, rng)
    requests = [rng.choice(keys, candidates) for _ in range(WARM_UP + repeats)]
    result: dict[str, Any] = {
        "items": items,
        "width": width,
        "candidates": candidates,
        "repeats": repeats,
        "seed": seed,
    }
    try:
        stores = {name: _store(directory / name, keys, width, name, requests) for name in PRECISIONS}
        result["stores"] = stores
        for name, measure in (("lmdb", _lmdb), ("redis", _redis)):
            found = measure(directory / f"{name}-data", keys, width, requests)
            if found:
                result[name] = found
        if large:
            keys = _keys(large, rng)
            requests = [rng.choice(keys, candidates) for _ in range(WARM_UP + repeats)]
            result["large"] = {"items": large, **_store(directory / "large", keys, width, "float16", requests)}
    finally:
        torch.set_num_threads(threads)
    return result


def table(result: Mapping[str, Any]) -> list[list[str]]:
    """The cells below ``HEADINGS``: "both" is look-up and gather, and all that LMDB and Redis were asked for."""
    large = {f"float16 x {result['large']['items']:,}": result["large"]} if "large" in result else {}
    rows = []
    for name, one in {**result["stores"], **large}.items():
        times = one["milliseconds"]
        cells = [times["lookup"]["p50"], times["both"]["p50"], times["both"]["p99"]]
        opened = [f"{one['row_bytes']:.0f}", f"{one['open_cold_seconds']:.2f}"]
        rows.append([name, *opened, *(f"{cell:.2f}" for cell in cells)])
    for name in ("lmdb", "redis"):
        if name in result:
            both = result[name]["milliseconds"]["both"]
            rows.append([f"{name} {result[name]['version']}", "", "", "", f"{both['p50']:.2f}", f"{both['p99']:.2f}"])
    return rows


def _keys(count: int, rng: np.random.Generator) -> Keys:
    keys = np.unique(rng.integers(-(2**62), 2**62, size=count))
    rng.shuffle(keys)
    return keys


def _store(directory: Path, keys: Keys, width: int, precision: Precision, requests: list[Keys]) -> dict[str, Any]:
    """Write a sealed store, open it cold, warm and preloaded, and time requests."""
    (directory / "store").mkdir(parents=True)
    files = StoreFiles(directory / "store", len(keys), width, precision, 0, 0)
    files.create()
    begun = time.perf_counter()
    rows = torch.randn((CHUNK, width), generator=torch.Generator().manual_seed(0))
    chunk = Vectors.store(rows, precision)
    for start in range(0, len(keys), CHUNK):
        count = min(CHUNK, len(keys) - start)
        files.write(start, Encoded(np.empty((count, 0), dtype=np.uint16), chunk.part(0, count), None))
    files.finish("bench", "int", 0, keys, None)
    seal(directory, "bench", "none")
    written = time.perf_counter() - begun
    _forget(directory)
    before = _resident()
    cold, store = _timed(lambda: _opened(directory))
    grown = _resident() - before
    times = {"lookup": _times(store.lookup, requests)}
    times["lookup_of_a_list"] = _times(store.lookup, [request.tolist() for request in requests])
    positions = [store.lookup(request)[0] for request in requests]
    times["gather"] = _times(store.gather, positions)
    times["both"] = _times(lambda ids: store.gather(store.lookup(ids)[0]), requests)
    warm, _ = _timed(lambda: _opened(directory))
    preload, _ = _timed(lambda: ItemStore.open(directory / "store", preload=True))
    full, _ = _timed(lambda: verify(directory, "full"))
    sizes = {path.name: path.stat().st_size for path in (directory / "store").iterdir()}
    shutil.rmtree(directory)
    return {
        "row_bytes": sum(size for name, size in sizes.items() if name.startswith("rows")) / len(keys),
        "bytes": sum(sizes.values()),
        "write_seconds": written,
        "open_cold_seconds": cold,
        "open_warm_seconds": warm,
        "preload_seconds": preload,
        "full_check_seconds": full,
        "resident_mib_after_cold_open": grown / 2**20,
        "milliseconds": times,
    }


def _opened(directory: Path) -> ItemStore:
    verify(directory)
    return ItemStore.open(directory / "store")


def _lmdb(directory: Path, keys: Keys, width: int, requests: list[Keys]) -> dict[str, Any] | None:
    """float16 rows in LMDB, one transaction a request; None if it is not installed."""
    try:
        lmdb = import_module("lmdb")
    except ModuleNotFoundError:
        return None
    environment = lmdb.open(str(directory), map_size=2**40, readahead=False)
    rows = _rows(width)
    ordered = np.sort(keys.astype(">i8").view("S8"))
    with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
        names = (ordered[number : number + 1].tobytes() for number in range(len(ordered)))
        cursor.putmulti(((name, rows[number % CHUNK].tobytes()) for number, name in enumerate(names)), append=False)

    def read(ids: Keys) -> Any:
        names = ids.astype(">i8").tobytes()
        with environment.begin(buffers=True) as transaction, transaction.cursor() as cursor:
            found = cursor.getmulti([names[start : start + 8] for start in range(0, len(names), 8)])
            values = b"".join(value for _, value in found)
        return np.frombuffer(values, dtype=np.float16).reshape(-1, width).astype(np.float32)

    try:
        assert len(read(requests[0])) == len(requests[0])
        return {"version": lmdb.__version__, "milliseconds": {"both": _times(read, requests)}}
    finally:
        environment.close()
        shutil.rmtree(directory)


def _redis(directory: Path, keys: Keys, width: int, requests: list[Keys]) -> dict[str, Any] | None:
    """float16 rows in a real server, one MGET a request over a Unix socket; None if it is not installed."""
    server = shutil.which("redis-server")
    try:
        redis = import_module("redis")
    except ModuleNotFoundError:
        return None
    if server is None:
        return None
    rows = _rows(width)
    with redis_server(server, directory) as socket:
        client = redis.Redis(unix_socket_path=socket)
        for start in range(0, len(keys), 10_000):
            part = keys[start : start + 10_000]
            client.mset({int(key): rows[number % CHUNK].tobytes() for number, key in enumerate(part)})

        def read(ids: Keys) -> Any:
            values = client.mget(ids.tolist())
            return np.frombuffer(b"".join(values), dtype=np.float16).reshape(-1, width).astype(np.float32)

        assert len(read(requests[0])) == len(requests[0])
        version = str(client.info()["redis_version"])
        times = _times(read, requests)
        client.close()
    shutil.rmtree(directory)
    return {"version": version, "milliseconds": {"both": times}}


@contextmanager
def redis_server(program: str, directory: Path) -> Iterator[str]:
    """A server without disk or port, and its socket, once it can be connected to."""
    directory.mkdir()
    socket = str(directory / "s")
    arguments = ["--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", str(directory)]
    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if Path(socket).exists():
                break
            time.sleep(0.05)
        yield socket
    finally:
        process.terminate()
        process.wait()


def _rows(width: int) -> NDArray[np.float16]:
    return np.random.default_rng(0).standard_normal((CHUNK, width)).astype(np.float16)


def _times(function: Callable[[Any], Any], arguments: list[Any]) -> dict[str, float]:
    """Milliseconds of calls after a warm-up."""
    seconds = []
    for argument in arguments:
        begun = time.perf_counter()
        function(argument)
        seconds.append(time.perf_counter() - begun)
    timed = np.array(seconds[WARM_UP:]) * 1e3
    return {"p50": float(np.median(timed)), "p99": float(np.quantile(timed, 0.99))}


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = function()
    return time.perf_counter() - begun, result


def _forget(directory: Path) -> None:
    """Have the system drop what it has cached of the files, so that they are read from the disk."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _resident() -> int:
    """Bytes of this process in memory, mapped files included as far as they were touched."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
