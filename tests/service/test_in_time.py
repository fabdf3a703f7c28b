"""Soft deadlines and clients that go away, over the wire."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from tests.service.conftest import Running, Serve, publish

from prerank.data.build import build
from prerank.data.protocol import preset
from prerank.data.sources.synthetic import checkerboard
from prerank.publish.in_time import STEP

pytestmark = pytest.mark.xdist_group("service")

ITEMS = [f"item-{number:04}" for number in range(600)]
PASSED = 1e-6  # milliseconds: over when the request has been read
GONE = 5000  # after three fifths of them memory is what so many decoded bodies need at a time
SLOWLY = ("threads=1", "queue=8", "deadline_ms=60000")


@pytest.fixture(scope="module")
def many(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """A service of more items than are scored between two looks at the clock."""
    world = build(checkerboard(users=60, items=len(ITEMS), events_per_user=12, seed=3), preset("din", ["test_size=2"]))
    published = tmp_path_factory.mktemp("many") / "published"
    publish(world, published)
    return serve(published, *(part for setting in SLOWLY for part in ("--set", setting)))


def infer(parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "inputs": [{"name": "candidates", "datatype": "BYTES", "shape": [len(ITEMS)], "data": ITEMS}],
        "parameters": parameters,
    }


def test_what_was_scored_comes_back_with_its_share(many: Running) -> None:
    whole = many.rank({"candidates": ITEMS}).json
    assert whole["coverage"] == 1 and len(whole["ids"]) == len(ITEMS)
    scores = dict(zip(whole["ids"], whole["scores"], strict=True))
    before = many.numbers()["prerank_partial_answers_total"]
    part = many.rank({"candidates": ITEMS, "soft_deadline_ms": PASSED}).json
    assert part["coverage"] == pytest.approx(STEP / len(ITEMS)) and set(part["ids"]) == set(ITEMS[:STEP])
    assert part["scores"] == pytest.approx([scores[item] for item in part["ids"]], rel=1e-5, abs=1e-6)
    assert part["ids"] == [item for item in whole["ids"] if item in set(ITEMS[:STEP])]
    answer = many.call("POST", "/v2/models/prerank/infer", infer({"soft_deadline_ms": PASSED})).json
    assert answer["parameters"]["coverage"] == part["coverage"]
    assert next(tensor["data"] for tensor in answer["outputs"] if tensor["name"] == "ids") == part["ids"]
    assert many.numbers()["prerank_partial_answers_total"] == before + 2


def test_with_enough_time_nothing_changes(many: Running) -> None:
    whole = many.rank({"candidates": ITEMS}).json
    answer = many.rank({"candidates": ITEMS, "soft_deadline_ms": 50_000}).json
    assert answer["coverage"] == 1 and answer["ids"] == whole["ids"]
    assert answer["scores"] == pytest.approx(whole["scores"], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("soft", "hard", "message"),
    [
        (0, None, "soft_deadline_ms: expected float > 0.0"),
        ("5", None, "soft_deadline_ms: expected float, got str"),
        (30_000, 20_000, "soft_deadline_ms: 30000 is not less than deadline_ms, 20000"),
        (20_000, 20_000, "soft_deadline_ms: 20000 is not less than deadline_ms, 20000"),
    ],
)
def test_wrong_ones(many: Running, soft: Any, hard: Any, message: str) -> None:
    wrong = {"soft_deadline_ms": soft} | ({} if hard is None else {"deadline_ms": hard})
    answers = [
        many.rank({"candidates": ["item-0001"], **wrong}),
        many.call("POST", "/v2/models/prerank/infer", infer(wrong)),
    ]
    for answer in answers:
        assert answer.status == 400 and message in answer.error.replace("float | null", "float")


def test_a_batch_has_none(many: Running) -> None:
    one = {"candidates": ["item-0001"], "soft_deadline_ms": 5}
    answer = many.call("POST", "/v1/rank:batch", {"requests": [one]})
    assert answer.status == 400 and answer.error.startswith("requests[0].soft_deadline_ms: ")


def test_clients_that_go_away_leave_nothing_behind(many: Running) -> None:
    """Large requests whose clients go at once, many more of them than there are places."""
    body = json.dumps({"candidates": ITEMS * 15}).encode()  # more than the server reads ahead
    head = f"POST /v1/rank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    assert len(body) > 1 << 16
    memory = []
    for number in range(GONE):
        with socket.create_connection(("127.0.0.1", many.port)) as connection:
            connection.sendall(head.encode() + body[: len(body) if number % 3 else 1000])
        if number + 1 in (3 * GONE // 5, GONE):
            _settled(many)
            memory.append(many.of_processes("resident_memory_bytes") / 2**20)
    assert many.rank({"candidates": ITEMS}).status == 200
    numbers = many.numbers()
    assert numbers['prerank_requests_total{endpoint="rank",status="499"}'] > GONE / 4
    assert memory[1] < memory[0] + 50, memory
    assert len(list(Path(f"/proc/{many.process.pid}/fd").iterdir())) < 100


def _settled(server: Running) -> None:
    """Until no request of those that went is left."""
    for _ in range(1200):
        if server.numbers()["prerank_jobs"] == 0:
            return
        time.sleep(0.05)
    raise AssertionError(server.numbers())
