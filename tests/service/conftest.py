"""Real servers in processes of their own, on free ports of 127.0.0.1, ended by their process id."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.small import small_config

import prerank
from prerank.data.encoder import Encoder
from prerank.data.log import Dataset
from prerank.models.registry import create
from prerank.publish.bundle import Bundle
from prerank.publish.publish import publish_bundle
from prerank.serving.preranker import PreRanker

JSON = {"Content-Type": "application/json"}


def publish(world: Dataset, to: Path, seed: int = 0) -> Path:
    """An untrained model whose scores are far apart, published."""
    encoder = Encoder.fit(world)
    config = small_config("fit", embedding=4, embedding_std=1.0, tower=[16, 8], meta_queries=4, head_width=4)
    torch.manual_seed(seed)
    model = create(config, encoder.inputs).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    return publish_bundle(Bundle(model, encoder, config, {}), world, to)


@pytest.fixture(scope="session")
def master(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two generations, the second one current; tests that write work on a copy."""
    to = tmp_path_factory.mktemp("master") / "published"
    publish(world, to, 1)
    publish(world, to, 2)
    return to


@pytest.fixture
def published(master: Path, tmp_path: Path) -> Path:
    """A copy to write to."""
    return Path(shutil.copytree(master, tmp_path / "published"))


@pytest.fixture(scope="session")
def ranker(master: Path) -> PreRanker:
    """The in-process path."""
    return PreRanker.load(master)


@dataclass
class Answer:
    """A response: JSON where it is."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def error(self) -> str:
        """The message; a response that is an error has nothing else."""
        content = self.json
        assert list(content) == ["error"], content
        return str(content["error"])


@dataclass
class Running:
    """A server that listens."""

    process: subprocess.Popen[str]
    port: int
    log: Path
    rpc_port: int = 0
    admin_port: int = 0
    connections: list[http.client.HTTPConnection] = field(default_factory=list)

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        self.connections.append(connection)
        return connection

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = JSON, connection: Any = None
    ) -> Answer:
        """One request; what is not bytes is sent as JSON."""
        connection = connection or self.connect()
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, raw, dict(headers))
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())

    def rank(self, body: Any, **rest: Any) -> Answer:
        return self.call("POST", "/v1/rank", body, **rest)

    def numbers(self) -> dict[str, float]:
        """/metrics by series."""
        lines = self.call("GET", "/metrics").raw.decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def of_processes(self, what: str) -> float:
        """A number of its processes, all together."""
        return sum(value for name, value in self.numbers().items() if name.startswith(f"process_{what}{{"))

    def wait_for(self, generation: str | None = None) -> None:
        """Until it is ready, and serves that generation."""
        connection = self.connect()
        for _ in range(2400):  # a minute or two, where others compile at the same time
            answer = self.call("GET", "/healthz/ready", connection=connection)
            if answer.status == 200 and generation in (None, answer.json["generation"]):
                connection.close()
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"not ready:\n{self.log.read_text()}")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal and wait: its exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


Serve = Callable[..., Running]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts servers; all are ended with the session."""
    running: list[Running] = []

    def start(
        directory: Path,
        *options: str,
        token: str | None = None,
        admin_token: str | None = None,
        ready: bool = True,
    ) -> Running:
        log = tmp_path_factory.mktemp("service") / "log"
        environment = {**os.environ, "PYTHONPATH": str(Path(prerank.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        environment["PYTHONWARNINGS"] = "error"  # in workers, too
        environment |= {"PRERANK_TOKEN": token} if token else {}
        environment |= {"PRERANK_ADMIN_TOKEN": admin_token} if admin_token else {}
        command = [sys.executable, "-m", "prerank", "serve", str(directory), "--port", "0", *options]
        with log.open("w") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.match(r"listening at https?://127\.0\.0\.1:", line), log.read_text()
        running.append(Running(process, int(line.rsplit(":", 1)[1]), log))
        if any(option.startswith("grpc_port=") for option in options):
            line = process.stdout.readline()
            assert re.match(r"listening at grpcs?://127\.0\.0\.1:", line), log.read_text()
            running[-1].rpc_port = int(line.rsplit(":", 1)[1])
        if admin_token:
            line = process.stdout.readline()
            assert line.endswith(" for operators\n"), log.read_text()
            running[-1].admin_port = int(line.split()[2].rsplit(":", 1)[1])
        if ready:
            running[-1].wait_for()
        return running[-1]

    yield start
    for server in running:
        for connection in server.connections:
            connection.close()
        if server.process.poll() is None:
            assert server.end(signal.SIGINT) == 0
        assert server.process.stdout is not None
        server.process.stdout.close()
        assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="session")
def service(serve: Serve, master: Path) -> Running:
    """A server with the settings that it has unless told otherwise, and gRPC."""
    return serve(master, "--set", "grpc_port=0")


@pytest.fixture(scope="session")
def titled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generation with titles and a field of each kind."""
    from tests.service.titled import publish_titled  # noqa: PLC0415  # which takes ``publish`` from here

    return publish_titled(tmp_path_factory.mktemp("titled") / "published")


@pytest.fixture(scope="session")
def titles(serve: Serve, titled: Path) -> Running:
    """A server of it."""
    return serve(titled)


@pytest.fixture(scope="session")
def guarded(serve: Serve, titled: Path) -> Running:
    """A server of it that asks for the token open-sesame."""
    return serve(titled, token="open-sesame")
