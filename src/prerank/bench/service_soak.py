"""A served directory whose generations change under load, some of them damaged: no answer may fail or be of two."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from prerank.data.build import build
from prerank.data.encoder import Encoder
from prerank.data.protocol import preset
from prerank.data.sources.synthetic import checkerboard
from prerank.models.registry import create, model_config
from prerank.publish.bundle import Bundle
from prerank.publish.generation import CURRENT, GENERATIONS, open_generation
from prerank.publish.publish import publish_bundle
from prerank.serving.preranker import PreRanker
from prerank.serving.request import Request

HEADERS = {"Content-Type": "application/json"}
LOADS = 'prerank_generation_loads_total{{result="{}"}}'
DEADLINE_MS = 60_000  # a busy machine is no failure of the service
CLIENTS = 3  # the first of which sends batches
HALF_SENT = 20
PATIENCE = 120.0  # seconds until a swap is given up
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
        world = build(checkerboard(users=60, items=200, events_per_user=12, seed=seed), preset("din"))
        encoder, config = Encoder.fit(world), model_config({"name": "fit", "embedding_std": 1.0}, "soak")
        self.names: list[str] = []  # as published, the second is current: names of one second sort by their hashes
        for number in range(2):
            torch.manual_seed(seed + number)
            bundle = Bundle(create(config, encoder.inputs), encoder, config, {})
            self.names.append(publish_bundle(bundle, world, directory).name)
        ids = world.items[encoder.schema.item_id].to_list()
        ones: list[dict[str, Any]] = [
            {"candidates": ids, "user": {"user_id": user}, "history": ids[user : user + 9]} for user in (1, 2)
        ]
        self.bodies = {
            "/v1/rank": json.dumps({**ones[0], "deadline_ms": DEADLINE_MS}).encode(),
            "/v1/rank:batch": json.dumps({"requests": ones, "deadline_ms": DEADLINE_MS}).encode(),
        }
        self.truth: dict[tuple[str, int], Scores] = {}
        for name in self.names:
            ranker = PreRanker(open_generation(directory / GENERATIONS / name))
            answers = ranker.rank_many([Request.read(one) for one in ones])
            self.truth[name, 1] = [ranker.rank(**ones[0]).scores.tolist()]
            self.truth[name, 2] = [answer.scores.tolist() for answer in answers]

    def right(self, content: Any) -> bool:
        """Whether an answer is wholly that of the generation that it names."""
        answers = content.get("answers", [content])
        named = {content["generation"], *(answer["generation"] for answer in answers)}
        scores = [answer["scores"] for answer in answers]
        return len(named) == 1 and scores == self.truth.get((content["generation"], len(answers)))

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


class Client(threading.Thread):
    """Sends one request after the other until the service asks it to go."""

    def __init__(self, world: World, port: int, path: str) -> None:
        super().__init__(daemon=True)
        self.world, self.port, self.path = world, port, path
        self.sent: list[Sent] = []
        self.failures: list[str] = []

    def run(self) -> None:
        """Send."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        closing = False
        while not closing:
            begun = time.perf_counter()
            try:
                connection.request("POST", self.path, self.world.bodies[self.path], HEADERS)
                response = connection.getresponse()
                content, closing = json.loads(response.read()), response.will_close
            except (OSError, HTTPException, ValueError) as error:
                self.failures.append(repr(error))
                return
            right = response.status == 200 and self.world.right(content)
            self.sent.append(Sent(begun, time.perf_counter(), response.status, right))
        connection.close()


class Server:
    """``prerank serve`` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def numbers(self) -> dict[str, float]:
        """Its metrics."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def resident(self) -> float:
        """Bytes of memory, of all its workers."""
        return sum(value for name, value in self.numbers().items() if name.startswith("process_resident_memory_bytes"))

    def loads(self, result: str, count: int) -> None:
        """Wait until so many generations were loaded, or refused."""
        begun = time.perf_counter()
        while self.numbers()[LOADS.format(result)] < count:
            if time.perf_counter() - begun > PATIENCE or self.process.poll() is not None:
                raise TimeoutError(f"generation {count} was not {result}")
            time.sleep(0.01)

    def accepts(self) -> bool:
        """Whether it takes connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except ConnectionError:
            return False
        return True


def service_soak(directory: Path, swaps: int, bad: int, steady_seconds: float, seed: int) -> dict[str, Any]:
    """Swap generations under load, good and damaged ones, and end the service with requests in flight.

    Args:
        directory: an empty one.
        swaps: between two good generations.
        bad: damaged generations, one flipped bit each, in between.
        steady_seconds: of load before the first swap.
        seed: of models and flips.

    Returns:
        Counts that have to be zero (``failed``, ``wrong``, ``bad_served``, ``half_sent_lost``), and what was measured.
    """
    world, rng = World(directory / "published", seed), np.random.default_rng(seed)
    with _serving(world.directory) as server:
        server.loads("loaded", 1)
        paths = ["/v1/rank:batch", *["/v1/rank"] * (CLIENTS - 1)]
        clients = [Client(world, server.port, path) for path in paths]
        for client in clients:
            client.start()
        time.sleep(steady_seconds)
        windows, memory, refused = [], [], 0
        for number in range(swaps):
            begun = time.perf_counter()
            world.point(world.names[number % 2])
            server.loads("loaded", 2 + number)
            windows.append((begun, time.perf_counter()))
            memory.append(server.resident() / 2**20)
            while refused * swaps < bad * (number + 1):
                world.point(world.damage(refused, rng))
                refused += 1
                server.loads("refused", refused)
        loaded = server.numbers()[LOADS.format("loaded")]
        lost = _end(world, server)
        for client in clients:
            client.join(PATIENCE)
        code = server.process.wait(PATIENCE)
    sent = [one for client in clients for one in client.sent]
    during = [one for one in sent if any(one.begun < end and one.ended > begin for begin, end in windows)]
    before = [one for one in sent if one.ended < windows[0][0]]
    return {
        "seed": seed,
        "requests": len(sent),
        "failed": sum(one.status != 200 for one in sent) + sum(len(client.failures) for client in clients),
        "wrong": sum(one.status == 200 and not one.right for one in sent),
        "swaps": swaps,
        "bad_generations": bad,
        "bad_served": int(loaded) - 1 - swaps,
        "half_sent": HALF_SENT,
        "half_sent_lost": lost,
        "exit_code": code,
        "milliseconds": {"steady": _times(before), "during_swaps": _times(during)},
        "megabytes_after_swap": {
            str(1 + at): round(memory[at], 1) for at in sorted({0, min(19, swaps - 1), swaps - 1})
        },
    }


def _end(world: World, server: Server) -> int:
    """Send halves of requests, then SIGTERM, then the other halves: how many of them are not answered."""
    body = world.bodies["/v1/rank"]
    head = (
        f"POST /v1/rank HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    half = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(HALF_SENT)]
    for connection in half:
        connection.sendall(head.encode() + body[:50])
    server.process.send_signal(signal.SIGTERM)
    while server.accepts():
        time.sleep(0.02)
    lost = 0
    for connection in half:
        try:
            connection.sendall(body[50:])
            response = HTTPResponse(connection)
            response.begin()
            lost += not (response.status == 200 and world.right(json.loads(response.read())))
        except (OSError, HTTPException):
            lost += 1
        connection.close()
    return lost


@contextmanager
def _serving(directory: Path) -> Iterator[Server]:
    settings = ("watch_seconds=0.02", "drain_seconds=0.5", "limits.body_seconds=60", "queue=200")
    options = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "prerank", "serve", str(directory), "--port", "0", *options]
    with (directory / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        yield Server(process, int(process.stdout.readline().rsplit(":", 1)[1]))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _times(sent: Sequence[Sent]) -> dict[str, float]:
    times = np.array([1000 * (one.ended - one.begun) for one in sent])
    if not len(times):
        return {"count": 0}
    return {"count": len(times), **{f"p{q}": round(float(np.percentile(times, q)), 2) for q in (50, 99)}}
