"""What the load generator sends is what the service and the in-process path answer alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.service.conftest import Running, Serve

from prerank.bench.load_payloads import PAYLOADS, random_asked
from prerank.bench.load_servers import random_model
from prerank.serving.preranker import PreRanker

pytestmark = pytest.mark.xdist_group("service")

Prerank = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def random_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("load"), "two_tower", 1000, 1)


@pytest.fixture(scope="module")
def random_service(serve: Serve, random_world: Path) -> Running:
    return serve(random_world)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payloads_are_answered_as_in_process(random_service: Running, random_world: Path, payload: str) -> None:
    (asked,) = random_asked(1, 200, 10, 1000, 7, 3)
    expected = PreRanker.load(random_world).answer(asked)
    head, _, body = PAYLOADS[payload](asked).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    answer = random_service.call("POST", first.split()[1], body, dict(line.split(": ", 1) for line in lines))
    assert answer.status == 200
    if payload == "json":
        assert answer.json["ids"] == expected.ids and answer.json["scores"] == expected.scores.tolist()
        return
    size = int(answer.headers["inference-header-content-length"])
    outputs = {tensor["name"]: tensor for tensor in json.loads(answer.raw[:size])["outputs"]}
    assert [outputs[name]["shape"] for name in ("ids", "scores")] == [[7], [7]]
    assert np.frombuffer(answer.raw[size : size + 56], "<i8").tolist() == expected.ids


def test_the_command_line(prerank: Prerank, random_service: Running, tmp_path: Path) -> None:
    requests, result = tmp_path / "requests.jsonl", tmp_path / "load.json"
    requests.write_text('{"user": {}, "candidates": [1, 2, 3]}\n{"user": {"age": 3}, "candidates": [4]}\n')
    url = f"http://127.0.0.1:{random_service.port}"
    options = ["--url", url, "--requests", requests, "--seconds", "0.5", "--rate", "40", "--payload", "binary"]
    code, out, _ = prerank("bench", "load", *options, "--json", result)
    assert code == 0 and "200: 20" in out
    found: dict[str, Any] = json.loads(result.read_text())
    assert found["requests"] == 20 and found["rate"] == 40 and found["arrivals"] == "constant"
    assert prerank("bench", "load", *options, "--closed", "--connections", "2")[0] == 0
