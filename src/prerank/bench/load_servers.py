"""Services to put under load, in processes of their own: prerank's, and a plain one with the same weights."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from prerank.bench.latency_world import catalogue, publish, random_bundle
from prerank.errors import ConfigError
from prerank.publish.encode import Progress
from prerank.publish.generation import GENERATIONS

PATIENCE = 300.0  # seconds until a service that does not get ready is given up
NAME = "20260101T000000-00000000"


class Running:
    """A service that answers."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def numbers(self) -> dict[str, float]:
        """Its metrics."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def resident_mib(self) -> float:
        """Memory of all its processes."""
        sizes = [size for name, size in self.numbers().items() if name.startswith("process_resident_memory_bytes")]
        return sum(sizes) / 2**20


def random_model(directory: Path, model: str, items: int, seed: int, progress: Progress | None = None) -> Path:
    """Publish a model of the registry with random weights: the directory to serve."""
    bundle = random_bundle(model, items, seed)
    published = directory / "published"
    made = published / GENERATIONS / NAME
    made.parent.mkdir(parents=True)
    publish(bundle, catalogue(items, seed).lazy(), made, "float32", progress)
    return made


@contextmanager
def prerank_service(directory: Path, settings: Mapping[str, Any], log: Path) -> Iterator[Running]:
    """``prerank serve``, ready; it ends with the block."""
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "prerank", "serve", str(directory), "--port", "0", *options]
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening at http://"):
            said = log.read_text(encoding="utf-8").strip().splitlines() or ["nothing"]
            raise ConfigError(f"prerank serve did not start; it says: {said[-1].removeprefix('error: ')}")
        running = Running(process, int(line.rsplit(":", 1)[1]))
        _wait(running, "GET", "/healthz/ready")
        yield running
    finally:
        _end(process)


@contextmanager
def plain_service(directory: Path, workers: int, inline: bool, log: Path) -> Iterator[Running]:
    """The plain service, ready; it ends with the block. ``inline``: its endpoint is async and scores in the loop."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "prerank.bench.plain_service", str(directory), str(port), str(workers)]
    with log.open("w", encoding="utf-8") as stderr:
        environment = {**os.environ, "PRERANK_PLAIN_SERVICE_INLINE": "1"} if inline else dict(os.environ)
        process = subprocess.Popen(command, stderr=stderr, text=True, env=environment)
    try:
        running = Running(process, port)
        _wait(running, "GET", "/openapi.json")
        if workers > 1:
            time.sleep(6)  # the first that is ready answers; the others are not asked one by one
        yield running
    finally:
        _end(process)


def _wait(running: Running, method: str, path: str) -> None:
    begun = time.monotonic()
    while time.monotonic() - begun < PATIENCE:
        if running.process.poll() is not None:
            break
        try:
            connection = HTTPConnection("127.0.0.1", running.port, timeout=30)
            connection.request(method, path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise ChildProcessError(f"{running.process.args!r} is not ready")


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
