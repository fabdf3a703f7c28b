"""The shared store of rows: the local scores to the last bit, whatever the server does, and it is used again."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.service.conftest import Running, Serve, publish
from tests.service.redis_server import PROGRAM, RedisServer
from tests.service.test_rank import ITEMS
from typer.testing import CliRunner

from prerank.cli.main import app
from prerank.data.log import Dataset
from prerank.publish.generation import locate, open_generation
from prerank.publish.precision import PRECISIONS, Vectors
from prerank.publish.shared_store import FetchedStore, Packing, keys_of, push, read_marker
from prerank.publish.store import ItemStore
from prerank.publish.updates import ItemUpdates
from prerank.serving.preranker import PreRanker

pytestmark = [
    pytest.mark.xdist_group("service"),
    pytest.mark.skipif(PROGRAM is None, reason="not installed: redis-server (apt install redis-server)"),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]

REQUEST = {"candidates": [*ITEMS, "gone"], "user": {"user_id": 7}, "history": ITEMS[20:30]}


def rows_pushed(directory: Path, url: str, *options: str) -> str:
    result = CliRunner().invoke(app, ["redis", "push", str(directory), url, *options], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def directory(master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(master, tmp_path_factory.mktemp("shared") / "published"))


@pytest.fixture(scope="module")
def shared(serve: Serve, directory: Path, redis: RedisServer) -> Running:
    rows_pushed(directory, redis.url)
    return serve(directory, "--set", f"redis={redis.url}", "--set", "redis_timeout_ms=300")


@pytest.fixture
def up(shared: Running, redis: RedisServer, directory: Path) -> Running:
    """The service while rows come from the server."""
    rows_pushed(directory, redis.url)
    eventually(lambda: shared.numbers()["prerank_shared_store_up"] == 1)
    return shared


def eventually(condition: Callable[[], bool], seconds: float = 60) -> float:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "it did not come"
        time.sleep(0.05)
    return time.monotonic() - begun


def scores(server: Running, connection: Any = None) -> tuple[list[Any], list[float], bool]:
    """Of the request; and whether the answer says that it is degraded."""
    answer = server.rank(REQUEST, connection=connection)
    assert answer.status == 200, answer.raw
    return answer.json["ids"], answer.json["scores"], answer.json["degraded"]


def expected(directory: Path) -> tuple[list[Any], list[float]]:
    answer = PreRanker.load(directory).rank({"user_id": 7}, [*ITEMS, "gone"], history=ITEMS[20:30])
    return answer.ids, answer.scores.tolist()


def test_scores_are_those_of_the_local_store(up: Running, directory: Path) -> None:
    before = up.numbers()
    assert scores(up) == (*expected(directory), False)
    batch = up.call("POST", "/v1/rank:batch", {"requests": [REQUEST, {"candidates": ITEMS[:3]}, {"candidates": []}]})
    assert batch.json["answers"][0]["scores"] == pytest.approx(expected(directory)[1], abs=1e-5)
    assert [answer["degraded"] for answer in batch.json["answers"]] == [False] * 3
    assert up.rank({"candidates": ["gone"]}).json["degraded"] is False
    after = up.numbers()
    fetches = 'prerank_shared_store_fetches_total{result="whole"}'
    assert after[fetches] - before[fetches] == 2
    assert after["prerank_shared_store_seconds_count"] - before["prerank_shared_store_seconds_count"] == 2


def test_missing_and_foreign_rows_are_taken_from_the_local_store(
    up: Running, redis: RedisServer, directory: Path
) -> None:
    name = locate(directory).name
    store = PreRanker.load(directory).generation.store
    positions, known = store.lookup(ITEMS)
    keys = keys_of(name, positions[known])
    redis.client().delete(*keys[:10])
    redis.client().set(keys[11], b"short")
    before = up.numbers()
    assert scores(up) == (*expected(directory), True)
    after = up.numbers()
    fetches = 'prerank_shared_store_fetches_total{result="incomplete"}'
    assert after[fetches] - before[fetches] == 1
    assert after["prerank_degraded_total"] - before["prerank_degraded_total"] == 1


def stopped(redis: RedisServer) -> Callable[[], None]:
    redis.stop()
    return redis.start


def frozen(redis: RedisServer) -> Callable[[], None]:
    redis.freeze()
    return redis.thaw


def flushed(redis: RedisServer) -> Callable[[], None]:
    redis.client().flushall()
    return lambda: None


@pytest.mark.parametrize("trouble", [stopped, frozen, flushed])
def test_trouble_is_answered_locally_and_passes(
    up: Running, redis: RedisServer, directory: Path, trouble: Callable[[RedisServer], Callable[[], None]]
) -> None:
    known = expected(directory)
    mend = trouble(redis)
    try:
        for _ in range(10):
            assert scores(up) == (*known, True)
        assert up.numbers()["prerank_shared_store_up"] == 0
        assert up.call("GET", "/healthz/ready").status == 200
        assert up.call("GET", "/v1/status").json["store"]["shared"] is False
    finally:
        mend()
    rows_pushed(directory, redis.url)
    eventually(lambda: up.numbers()["prerank_shared_store_up"] == 1)
    assert scores(up) == (*known, False)
    assert up.call("GET", "/v1/status").json["store"]["shared"] is True


def test_no_request_fails_while_the_server_comes_and_goes(up: Running, redis: RedisServer, directory: Path) -> None:
    known, seen, stop = expected(directory), [], threading.Event()

    def ask() -> None:
        connection = up.connect()
        while not stop.is_set():
            seen.append(scores(up, connection))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for trouble in (stopped, frozen, flushed):
        trouble(redis)()
        rows_pushed(directory, redis.url)
        eventually(lambda: up.numbers()["prerank_shared_store_up"] == 1)
        count = len(seen)
        eventually(lambda count=count: len(seen) > count + 3)  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join()
    assert all((ids, values) == known for ids, values, _ in seen)
    assert {degraded for *_, degraded in seen} == {False, True}


class Slow:
    """Passes bytes on to a server, answers after a delay, or in drops."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.delay = 0.0
        self.drops = False
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.to))
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                if answers:
                    time.sleep(self.delay)
                while answers and self.drops and data:
                    sink.sendall(data[:1])
                    data = data[1:]
                    time.sleep(0.05)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()


def test_a_slow_server_costs_a_request_its_timeout_at_most(serve: Serve, directory: Path, redis: RedisServer) -> None:
    rows_pushed(directory, redis.url)
    proxy = Slow(redis.port)
    server = serve(directory, "--set", f"redis=redis://127.0.0.1:{proxy.port}", "--set", "redis_timeout_ms=300")
    known = expected(directory)
    for way, value in (("delay", 0.6), ("drops", True)):
        eventually(lambda: server.numbers()["prerank_shared_store_up"] == 1)
        assert scores(server) == (*known, False)
        setattr(proxy, way, value)
        for _ in range(3):
            assert scores(server) == (*known, True)  # within deadline_ms, which is a second
        setattr(proxy, way, type(value)(0))
    eventually(lambda: server.numbers()["prerank_shared_store_up"] == 1)
    assert "no answer within 300 ms" in server.log.read_text()
    proxy.socket.close()


def test_a_wrong_password_is_a_log_line_that_does_not_tell_it(serve: Serve, directory: Path, tmp_path: Path) -> None:
    locked = RedisServer(tmp_path, "right-password")
    try:
        url = f"redis://:wrong-password@127.0.0.1:{locked.port}"
        server = serve(directory, "--set", f"redis={url}", "--set", "redis_timeout_ms=300")
        assert scores(server) == (*expected(directory), True)
        eventually(lambda: "shared store" in server.log.read_text())
        assert "AuthenticationError" in server.log.read_text() and "wrong-password" not in server.log.read_text()
        result = CliRunner().invoke(app, ["redis", "push", str(directory), url])
        assert result.exception is not None and "wrong-password" not in str(result.exception)
    finally:
        locked.stop()


def test_the_password_may_be_in_the_environment(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = RedisServer(tmp_path, "right-password")
    try:
        monkeypatch.setenv("PRERANK_REDIS_PASSWORD", "right-password")
        assert "80 rows" in rows_pushed(directory, locked.url)
    finally:
        locked.stop()


def test_a_new_generation_is_used_once_it_is_pushed(
    up: Running, redis: RedisServer, directory: Path, world: Dataset
) -> None:
    old = locate(directory).name
    new = publish(world, directory, 3).name
    eventually(lambda: up.call("GET", "/healthz/ready").json["generation"] == new)
    assert scores(up) == (*expected(directory), True)
    output = rows_pushed(directory, redis.url, "--keep", "0.05")
    assert "80 rows of other generations expire" in output
    eventually(lambda: up.numbers()["prerank_shared_store_up"] == 1)
    assert scores(up) == (*expected(directory), False)
    client = redis.client()
    eventually(lambda: not client.keys(f"prerank:{old}*"))
    assert client.smembers("prerank:generations") == {new.encode()} and client.dbsize() == 82
    assert client.ttl(keys_of(new, np.arange(1))[0]) == -1


def test_upserted_items_come_from_the_log(up: Running, directory: Path) -> None:
    updates = ItemUpdates.open(directory)
    updates.upsert([{"item_id": "new", "category": "category-1"}, {"item_id": "item-0001", "category": "category-2"}])
    candidates = [*ITEMS[:5], "new"]
    local = PreRanker.load(directory).rank({"user_id": 7}, candidates, history=ITEMS[20:30])
    answer = up.rank({**REQUEST, "candidates": candidates}).json
    assert (answer["ids"], answer["scores"], answer["degraded"]) == (local.ids, local.scores.tolist(), False)


@pytest.fixture
def stores(world: Dataset, tmp_path: Path) -> Iterator[tuple[ItemStore, RedisServer]]:
    server = RedisServer(tmp_path)
    place = publish(world, tmp_path / "published", 5)
    yield open_generation(place, planned=False).store, server
    server.stop()


class Interrupted(Exception):  # noqa: N818
    pass


def test_an_interrupted_push_goes_on(stores: tuple[ItemStore, RedisServer], monkeypatch: pytest.MonkeyPatch) -> None:
    store, server = stores
    client = server.client()
    monkeypatch.setattr("prerank.publish.shared_store.CHUNK", 30)

    def progress(rows: int) -> None:
        if rows == 60:
            raise Interrupted

    with pytest.raises(Interrupted):
        push(store, client, 1, progress)
    marker = read_marker(client, store.generation)
    assert marker is not None and marker["pushed"] == 60
    went: list[int] = []
    assert push(store, client, 1, went.append) == (60, 0) and went == [80]
    assert push(store, client, 1, went.append) == (0, 0) and went == [80, 30, 60, 80]
    client.flushall()
    assert push(store, client, 1, went.append)[0] == 0 and client.dbsize() == 82


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_are_the_same_bits_in_every_precision(precision: Any, master: Path) -> None:
    store = open_generation(locate(master), planned=False).store
    rows = Vectors.store(torch.randn((80, 6), generator=torch.Generator().manual_seed(1)), precision)
    store = replace(store, rows=rows, precision=precision, index=None)
    packing = Packing(store)
    values = packing.pack(rows)
    assert {len(value) for value in values} == {packing.size}
    at = np.array([3, 7, 50])
    fetched = FetchedStore.over(store, at, packing.unpack([values[place] for place in at]))
    asked = np.array([50, 3, 3, 7])
    table, places = fetched.floats(asked)
    mine, where = store.floats(asked)
    assert np.array_equal(table[places], mine[where])
    assert torch.equal(fetched.gather(asked), store.gather(asked))


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("http://:secret@x", (), "redis: not the URL of a server"),
        ("redis://127.0.0.1:1/0", (), "redis: "),
        ("redis://127.0.0.1:1/0", ("--keep", "0"), "--keep 0: expected seconds above 0"),
        ("redis://127.0.0.1:x/0", (), "redis: not the URL of a server"),
    ],
)
def test_what_is_wrong_with_a_push_is_one_line(
    directory: Path, url: str, options: tuple[str, ...], message: str
) -> None:
    result = CliRunner().invoke(app, ["redis", "push", str(directory), url, *options])
    assert message in str(result.exception) and "\n" not in str(result.exception)
    assert "secret" not in str(result.exception)


def test_a_wrong_url_is_refused_at_the_start(directory: Path) -> None:
    for url in ("http://:secret@x", "redis://user:secret/word@x"):
        result = CliRunner().invoke(app, ["serve", str(directory), "--port", "0", "--set", f"redis={url}"])
        assert "redis: not the URL of a server" in str(result.exception) and "secret" not in str(result.exception)
