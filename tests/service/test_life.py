"""From start to end: swaps under load, orderly ends, and starts that fail with one line."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.service.conftest import JSON, Running, Serve
from tests.service.test_live import names, point

from prerank.errors import ArtefactError, ConfigError
from prerank.publish.generation import locate, open_generation
from prerank.service.server import serve as serve_here
from prerank.service.settings import ServiceConfig
from prerank.serving.preranker import PreRanker
from prerank.serving.request import Request

pytestmark = pytest.mark.xdist_group("service")  # one process, so that its server is started once

ITEMS = [f"item-{number:04}" for number in range(80)]
REQUEST: dict[str, Any] = {"candidates": ITEMS, "user": {"user_id": 3}, "history": ITEMS[20:26], "ranking": "score"}
BODY = json.dumps({**REQUEST, "deadline_ms": 60_000}).encode()
HEAD = (
    f"POST /v1/rank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
).encode()
REFUSED = 'prerank_generation_loads_total{result="refused"}'
BATCH: dict[str, Any] = {"requests": [REQUEST, {**REQUEST, "user": {"user_id": 5}}]}


class Load(threading.Thread):
    """A client that sends requests one after the other, and keeps what comes."""

    def __init__(self, server: Running, batches: bool) -> None:
        super().__init__()
        self.port = server.port
        self.path = "/v1/rank:batch" if batches else "/v1/rank"
        self.body = json.dumps(BATCH if batches else REQUEST)
        self.answers: list[tuple[int, Any]] = []
        self.failures: list[BaseException] = []
        self.closed = 0
        self.stopping = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.stopping.is_set():
            try:
                connection.request("POST", self.path, self.body, JSON)
                response = connection.getresponse()
                self.answers.append((response.status, json.loads(response.read())))
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failures.append(error)
                return
            if response.will_close:  # the service asks to go elsewhere
                self.closed += 1
                return
        connection.close()


def test_swaps_under_load_and_an_end_in_the_middle(serve: Serve, published: Path) -> None:
    """No request fails, and each answer is wholly that of the generation that it names."""
    settings = ("watch_seconds=0.02", "drain_seconds=0.5", "limits.body_seconds=20")
    server = serve(published, *(part for setting in settings for part in ("--set", setting)))
    good = names(published)
    truth = {}
    for name in good:
        ranker = PreRanker(open_generation(published / "generations" / name))
        alone = ranker.rank(REQUEST["user"], ITEMS, history=ITEMS[20:26]).scores.tolist()
        together = ranker.rank_many([Request.read(one) for one in BATCH["requests"]])
        truth[name] = {1: [alone], 2: [answer.scores.tolist() for answer in together]}
    assert truth[good[0]] != truth[good[1]]
    clients = [Load(server, batches=number == 0) for number in range(3)]
    for client in clients:
        client.start()
    for turn in range(8):
        point(published, good[turn % 2])
        server.wait_for(good[turn % 2])
        if turn == 3:  # and a bad one in between
            point(published, "20200101T000000-00000000")
            while not server.numbers()[REFUSED]:
                time.sleep(0.02)
    loads = server.numbers()
    assert loads[REFUSED] == 1 and loads[REFUSED.replace("refused", "loaded")] == 9
    half = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(20)]
    for connection in half:
        connection.sendall(HEAD + BODY[:50])
    server.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.join(60)
    assert server.call("GET", "/healthz/ready").json["status"] == "draining"
    while accepts(server):
        time.sleep(0.05)
    for connection in half:
        connection.sendall(BODY[50:])
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 200 and json.loads(response.read())["scores"] == truth[good[1]][1][0]
        connection.close()
    assert server.process.wait(60) == 0

    assert [client.failures for client in clients] == [[], [], []]
    assert [client.closed for client in clients] == [1, 1, 1]
    served = set()
    for client in clients:
        assert {status for status, _ in client.answers} == {200}
        for _, content in client.answers:
            served.add(content["generation"])
            rankings = content.get("answers", [content])
            assert {ranking["generation"] for ranking in rankings} == {content["generation"]}
            assert [ranking["scores"] for ranking in rankings] == truth[content["generation"]][len(rankings)]
    assert served == set(good)
    assert sum(len(client.answers) for client in clients) > 30


def accepts(server: Running) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port)).close()
    except ConnectionError:
        return False
    return True


def test_a_damaged_generation_does_not_start(published: Path) -> None:
    path = locate(published) / "store" / "rows.npy"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ArtefactError, match=r"rows\.npy: is damaged"):
        serve_here(published, ServiceConfig(port=0), lambda _: None)


def test_nothing_to_serve(tmp_path: Path) -> None:
    addresses: list[str] = []
    with pytest.raises(ArtefactError, match="nothing is published here"):
        serve_here(tmp_path, ServiceConfig(port=0), addresses.append)
    assert len(addresses) == 1


def test_an_address_that_is_taken(master: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1, port {port}: Address already in use"):
            serve_here(master, ServiceConfig(port=port), lambda _: None)
