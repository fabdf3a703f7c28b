"""A small published world, a service of it in processes of its own, and clients that know the right answers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from prerank.data.build import build
from prerank.data.encoder import Encoder
from prerank.data.log import Dataset
from prerank.data.protocol import preset
from prerank.data.sources.synthetic import checkerboard
from prerank.models.registry import create, model_config
from prerank.publish.bundle import Bundle
from prerank.publish.generation import CURRENT, GENERATIONS, open_generation
from prerank.publish.publish import publish_bundle
from prerank.serving.preranker import PreRanker
from prerank.serving.request import Request

HEADERS = {"Content-Type": "application/json"}
DEADLINE_MS = 60_000  # a busy machine is no failure of the service
PATIENCE = 120.0  # seconds until a swap is given up
QUEUE = 400
TOKEN = "soak"
Scores = list[list[float]]


class Sent(NamedTuple):
    """What became of a request."""

    begun: float
    ended: float
    status: int
    right: bool


class World:
    """Two generations, and the scores that each of them gives."""

    def __init__(self, directory: Path, seed: int) -> None:
        """Publish two small untrained models of FIT."""
        self.directory = directory
        world = self.dataset(seed)
        # As published, the second is current: names of one second sort by their hashes.
        self.names = [publish_bundle(self.bundle(seed, number), world, directory).name for number in range(2)]
        ids = world.items["item_id"].to_list()
        ones: list[dict[str, Any]] = [
            {"candidates": ids, "user": {"user_id": user}, "history": ids[user : user + 9]} for user in (1, 2)
        ]
        self.bodies = {
            "/v1/rank": json.dumps({**ones[0], "deadline_ms": DEADLINE_MS}).encode(),
            "/v1/rank:batch": json.dumps({"requests": ones, "deadline_ms": DEADLINE_MS}).encode(),
        }
        self.truth: dict[tuple[str, int], Scores] = {}
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the service: sums of several threads differ in their last bits
        for name in self.names:
            ranker = PreRanker(open_generation(directory / GENERATIONS / name))
            answers = ranker.rank_many([Request.read(one) for one in ones])
            self.truth[_model(name), 1] = [ranker.rank(**ones[0]).scores.tolist()]
            self.truth[_model(name), 2] = [answer.scores.tolist() for answer in answers]
        torch.set_num_threads(threads)

    @staticmethod
    def dataset(seed: int) -> Dataset:
        """What the models are of."""
        return build(checkerboard(users=60, items=200, events_per_user=12, seed=seed), preset("din"))

    @classmethod
    def bundle(cls, seed: int, number: int) -> Bundle:
        """The first or the second model, the same each time."""
        encoder, config = Encoder.fit(cls.dataset(seed)), model_config({"name": "fit", "embedding_std": 1.0}, "soak")
        torch.manual_seed(seed + number)
        return Bundle(create(config, encoder.inputs), encoder, config, {})

    def right(self, content: Any) -> bool:
        """Whether an answer is wholly that of the generation that it names."""
        answers = content.get("answers", [content])
        named = {content["generation"], *(answer["generation"] for answer in answers)}
        scores = [answer["scores"] for answer in answers]
        return len(named) == 1 and scores == self.truth.get((_model(content["generation"]), len(answers)))

    def point(self, name: str) -> None:
        """Make a generation the current one."""
        (self.directory / "NEXT").write_text(f"{name}\n", encoding="ascii")
        (self.directory / "NEXT").replace(self.directory / CURRENT)

    def damage(self, number: int, rng: np.random.Generator) -> str:
        """A copy of a generation with one bit flipped, by its name."""
        name = f"20990101T{number:06}-{'0' * 8}"
        copy = self.directory / GENERATIONS / name
        shutil.copytree(self.directory / GENERATIONS / self.names[number % 2], copy)
        files = sorted(path for path in copy.rglob("*") if path.is_file() and path.stat().st_size)
        path = files[rng.integers(len(files))]
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        return name


def _model(generation: str) -> str:
    """The part of a generation's name that is the hash of its model: published again, it gives the same scores."""
    return generation.partition("-")[2]


class Client(threading.Thread):
    """Sends one request after the other until the service asks it to go, in a rhythm if it is given one."""

    def __init__(self, world: World, port: int, path: str, seconds: float) -> None:
        """Send nothing yet.

        Args:
            world: whose requests.
            port: of the service.
            path: of the endpoint.
            seconds: from one request to the next; a late one counts from when it was due. At once after an answer if 0.
        """
        super().__init__(daemon=True)
        self.world, self.port, self.path, self.seconds = world, port, path, seconds
        self.sent: list[Sent] = []
        self.failures: list[str] = []

    def run(self) -> None:
        """Send."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        closing, due = False, time.perf_counter()
        while not closing:
            now = time.perf_counter()
            due = due + self.seconds if self.seconds else now
            time.sleep(max(0.0, due - now))
            try:
                connection.request("POST", self.path, self.world.bodies[self.path], HEADERS)
                response = connection.getresponse()
                raw, closing = response.read(), response.will_close
                ended = time.perf_counter()
                content = json.loads(raw)
            except (OSError, HTTPException, ValueError) as error:
                self.failures.append(repr(error))
                return
            right = response.status == 200 and self.world.right(content)
            self.sent.append(Sent(due, ended, response.status, right))
        connection.close()


class Server:
    """``prerank serve`` in processes of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int, admin_port: int) -> None:
        self.process = process
        self.port = port
        self.admin_port = admin_port

    def numbers(self) -> dict[str, float]:
        """Its metrics."""
        _, raw = _ask(self.port, "GET", "/metrics")
        lines = raw.decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def counters(self) -> dict[str, float]:
        """Those of its metrics that never go back, as long as a process lives."""
        types = ("_total", "_count", "_sum")
        numbers = self.numbers().items()
        return {name: value for name, value in numbers if name.partition("{")[0].endswith(types) and "pid=" not in name}

    def of_processes(self, what: str) -> float:
        """A number of all its processes together."""
        return sum(value for name, value in self.numbers().items() if name.startswith(f"process_{what}{{"))

    def operate(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """A call of the admin API: status and answer."""
        raw = None if body is None else json.dumps(body).encode()
        status, answer = _ask(self.admin_port, method, path, raw, {"Authorization": f"Bearer {TOKEN}"})
        return status, json.loads(answer)

    def workers(self) -> list[dict[str, Any]]:
        """How its workers are."""
        found: list[dict[str, Any]] = self.operate("GET", "/v1/workers")[1]["workers"]
        return found

    def is_ready(self) -> bool:
        """Whether it says so."""
        return _ask(self.port, "GET", "/healthz/ready")[0] == 200

    def until(self, what: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until something is so of each worker."""
        begun = time.perf_counter()
        while not all(what(worker) for worker in self.workers()):
            if time.perf_counter() - begun > PATIENCE or self.process.poll() is not None:
                raise TimeoutError(f"the workers are {self.workers()}")
            time.sleep(0.01)

    def ready(self) -> None:
        """Wait until it answers."""
        self.until(lambda worker: worker["state"] == "ready")

    def accepts(self) -> bool:
        """Whether it takes connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except ConnectionError:
            return False
        return True


@contextmanager
def serving(directory: Path, *settings: str) -> Iterator[Server]:
    """A service with an admin API."""
    usual = ("watch_seconds=0.02", "drain_seconds=0.5", "limits.body_seconds=60", f"queue={QUEUE}")
    options = [part for setting in (*usual, "admin.port=0", *settings) for part in ("--set", setting)]
    command = [sys.executable, "-m", "prerank", "serve", str(directory), "--port", "0", *options]
    with (directory / "log").open("w", encoding="utf-8") as log:
        environ = {**os.environ, "PRERANK_ADMIN_TOKEN": TOKEN}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environ)
    assert process.stdout is not None
    try:
        ports = [int(process.stdout.readline().split()[2].rsplit(":", 1)[1]) for _ in range(2)]
        yield Server(process, *ports)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.stdout.close()


def _ask(port: int, method: str, path: str, body: bytes | None = None, headers: Any = None) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request(method, path, body, {**HEADERS, **(headers or {})})
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer
