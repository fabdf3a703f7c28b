"""Too much, too slow, too many, and without a token: each is refused by name, and the service goes on."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.service.conftest import JSON, Running, Serve

from prerank.service.http import gate
from prerank.service.http.accept import listening_at
from prerank.service.http.app import Service
from prerank.service.server import Server
from prerank.service.settings import ServiceConfig

pytestmark = pytest.mark.xdist_group("service")  # one process, so that its server is started once

TOKEN = "correct-horse-battery-staple"
SETTINGS = (
    "limits.body_bytes=2000",
    "limits.head_bytes=2048",
    "limits.candidates=20",
    "limits.history=5",
    "limits.columns=2",
    "limits.batch=3",
    "limits.head_seconds=0.4",
    "limits.body_seconds=0.4",
    "connections=8",
    "access_log=true",
)
SMALL = {"candidates": ["item-0001"]}
AUTHORIZED = {**JSON, "Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def strict(serve: Serve, master: Path) -> Running:
    """A server with little room that asks for a token."""
    return serve(master, *(part for setting in SETTINGS for part in ("--set", setting)), token=TOKEN)


@pytest.fixture(autouse=True)
def _goes_on(strict: Running) -> Any:
    """After each test there is room for connections, and requests are answered."""
    yield
    for connection in strict.connections:
        connection.close()
    strict.connections.clear()
    assert strict.rank(SMALL, headers=AUTHORIZED).status == 200


def raw(server: Running, sent: bytes, *, more: bytes = b"", pause: float = 0) -> tuple[int, str]:
    """Status and message of an exchange of bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(sent)
        if more:
            time.sleep(pause)
            connection.sendall(more)
        response = http.client.HTTPResponse(connection)
        response.begin()
        content = json.loads(response.read())
        assert list(content) == ["error"]
        return response.status, content["error"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"candidates": ["x"] * 21}, "candidates: has 21 entries, 20 are allowed"),
        ({"candidates": ["x"], "history": ["x"] * 6}, "history: has 6 entries, 5 are allowed"),
        ({"candidates": [], "columns": {"a": [], "b": [], "c": []}}, "columns: has 3 entries, 2 are allowed"),
    ],
)
def test_entries(strict: Running, body: Any, field: str) -> None:
    answer = strict.rank(body, headers=AUTHORIZED)
    assert (answer.status, answer.error) == (400, field)
    batch = strict.call("POST", "/v1/rank:batch", {"requests": [SMALL, body]}, AUTHORIZED)
    assert (batch.status, batch.error) == (400, f"requests[1].{field}")


def test_batches(strict: Running) -> None:
    answer = strict.call("POST", "/v1/rank:batch", {"requests": [SMALL] * 4}, AUTHORIZED)
    assert (answer.status, answer.error) == (400, "requests: has 4 entries, 3 are allowed")


def test_bodies(strict: Running) -> None:
    body = json.dumps({"candidates": ["x"]}).encode()
    assert strict.rank(body.ljust(2000), headers=AUTHORIZED).status == 200
    answer = strict.rank(body.ljust(2001), headers=AUTHORIZED)
    assert answer.status == 413 and answer.error.startswith("body: more than 2000 bytes")


def test_a_body_of_unknown_length_is_bounded_too(strict: Running) -> None:
    head = f"POST /v1/rank HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n"
    chunk = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    status, error = raw(strict, head.encode() + b"transfer-encoding: chunked\r\n\r\n" + 3 * chunk)
    assert status == 413 and error.startswith("body: more than 2000 bytes")


def test_a_declared_length_is_believed_before_the_body_comes(strict: Running) -> None:
    head = f"POST /v1/rank HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n"
    assert raw(strict, head.encode() + b"content-length: 99999999999\r\n\r\n")[0] == 413


def test_compressed_bodies_are_not_opened(strict: Running) -> None:
    bomb = gzip.compress(b" " * 1_000_000)
    for encoding in ("gzip", "deflate", "br", "identity, gzip"):
        answer = strict.rank(bomb, headers={**AUTHORIZED, "Content-Encoding": encoding})
        assert answer.status == 415 and answer.error.startswith("content-encoding:")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
def test_other_media(strict: Running, kind: str) -> None:
    answer = strict.rank(SMALL, headers={**AUTHORIZED, "Content-Type": kind})
    assert answer.status == 415 and answer.error.startswith("content-type: expected application/json")


def test_heads(strict: Running) -> None:
    answer = strict.call("GET", "/healthz/live", headers={"X-Long": "x" * 2100})
    assert answer.status == 431 and answer.error.startswith("headers: more than 2048 bytes")
    assert strict.call("GET", "/healthz/live?" + "x" * 2100, headers={}).status == 431
    many = "".join(f"x-{number}: 1\r\n" for number in range(300))
    assert raw(strict, f"GET /healthz/live HTTP/1.1\r\nhost: a\r\n{many}\r\n".encode())[0] == 431
    # One that never ends, in one piece and in two.
    assert raw(strict, b"GET / HTTP/1.1\r\nx: " + b"x" * 9000)[0] == 431
    assert raw(strict, b"GET / HTTP/1.1\r\nx: " + b"x" * 1500, more=b"x" * 1500, pause=0.05)[0] == 431


def test_slow_heads_and_bodies(strict: Running) -> None:
    assert raw(strict, b"POST /v1/rank HTTP/1.1\r\nhost:") == (408, "headers: did not arrive within 0.4 seconds")
    head = f"POST /v1/rank HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n"
    begun = time.monotonic()
    status, error = raw(strict, head.encode() + b'content-length: 20\r\n\r\n{"', more=b"c", pause=0.2)
    assert (status, error) == (408, "body: did not arrive within 0.4 seconds") and time.monotonic() - begun < 5


def test_too_many_connections(strict: Running) -> None:
    time.sleep(0.1)  # those of other tests are gone
    waiting = [socket.create_connection(("127.0.0.1", strict.port)) for _ in range(8)]
    time.sleep(0.1)
    assert raw(strict, b"")[0] == 503
    for connection in waiting:
        connection.close()
    time.sleep(0.1)


@pytest.mark.parametrize(
    "sent",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET /healthz/live HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz/live HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /v1/rank HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/rank HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST /v1/rank HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"POST /v1/rank HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\nabcd",
        b"POST /v1/rank HTTP/1.1\r\ntransfer-encoding: x\r\n\r\nabcd",
    ],
)
def test_what_is_not_http(strict: Running, sent: bytes) -> None:
    status, error = raw(strict, sent)
    assert (status, error) == (400, "request: not valid HTTP/1.1")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN} {TOKEN}",
        None,
    ],
)
def test_no_answer_without_the_token(strict: Running, value: str | None) -> None:
    headers = {**JSON, **({} if value is None else {"Authorization": value})}
    paths = [
        "/v1/rank",
        "/v1/rank:batch",
        "/metrics",
        "/openapi.json",
        "/v1/status",
        "/v1/items",
        "/v1/titles",
        "/v2",
        "/%2e%2e/etc/passwd",
    ]
    connection = strict.connect()
    for method in ("GET", "POST", "DELETE", "HEAD"):
        for path in paths:
            answer = strict.call(method, path, SMALL, headers, connection)
            assert answer.status == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
            assert not answer.raw or answer.error == "authorization: send the header 'Authorization: Bearer TOKEN'"


def test_probes_need_no_token(strict: Running) -> None:
    assert strict.call("GET", "/healthz/live", headers={}).status == 200
    assert strict.call("GET", "/healthz/ready", headers={}).json["status"] == "ready"


def test_the_description_says_that_a_token_is_needed(strict: Running) -> None:
    page = strict.call("GET", "/openapi.json", headers=AUTHORIZED).json
    assert page["paths"]["/v1/rank"]["post"]["security"] == [{"token": []}]
    assert "security" not in page["paths"]["/healthz/ready"]["get"]


def test_logs_are_json_and_hold_no_secret(strict: Running) -> None:
    """Of all the requests above; run last."""
    lines = [json.loads(line) for line in strict.log.read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert any(line.get("path") == "/v1/rank" and line["status"] == 401 and line["ms"] > 0 for line in lines)
    assert TOKEN not in strict.log.read_text()


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/rank:batch", "/v2/models/prerank/infer"])
def test_a_full_queue_refuses_before_a_body_arrives(master: Path, path: str) -> None:
    """In this process, so that nothing depends on time; what arrives then is passed over, and the connection stays."""
    service = Service(master, ServiceConfig(port=0))
    service.engine.desk.places = 0

    async def run() -> None:
        with listening_at("127.0.0.1", 0, "host") as listener:
            port = listener.getsockname()[1]
            server = Server(service, listener, None)
            ending = asyncio.create_task(server.run_until_end())
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n"
            writer.write(head.encode() + b"{")
            assert await status(reader) == 429
            writer.write(b" " * 19 + b"GET /healthz/live HTTP/1.1\r\nHost: here\r\n\r\n")
            assert await status(reader) == 200
            writer.write(2 * (head.encode() + b" " * 20) + b"GET /healthz/live HTTP/1.1\r\nHost: here\r\n\r\n")
            assert [await status(reader) for _ in range(3)] == [429, 429, 200]
            # What the head makes wrong is said even then, and nothing is refused that does not wait for the queue.
            writer.write(head.replace("Host: here", f"Host: here\r\nX: {'x' * 20_000}").encode() + b" " * 20)
            assert await status(reader) == 431
            writer.write(head.replace("POST", "GET").encode() + b" " * 20)
            assert await status(reader) == 405
            writer.write(head.replace("1.1", "1.0").encode() + b" " * 20)
            assert await status(reader) == 429 and await reader.read() == b""
            writer.close()
            server.signalled(signal.SIGINT)
            await ending

    uvloop.run(asyncio.wait_for(run(), 60))
    text = service.engine.metrics.text(service.engine.group).decode()
    assert 'prerank_refused_total{reason="queue full"} 4.0' in text
    name = {"/v1/rank": "rank", "/v1/rank:batch": "rank_batch"}.get(path, "infer")
    assert f'prerank_requests_total{{endpoint="{name}",status="429"}} 4.0' in text


def test_a_token_comes_before_room(master: Path) -> None:
    """Who does not show it is not told how busy the service is."""
    service = Service(master, ServiceConfig(port=0), b"right")
    service.engine.desk.places = 0
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/rank", "http_version": "1.1"}
    scope |= {"raw_path": b"/v1/rank", "query_string": b"", "headers": [(b"authorization", b"Bearer wrong")]}

    async def run() -> None:
        assert service.application.at_once(scope) is None
        refusal = service.application.at_once({**scope, "headers": [(b"authorization", b"Bearer right")]})
        assert refusal is not None and refusal.status == 429

    asyncio.run(run())


def test_the_loop_rests_once_after_several_refusals(master: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not between them, and never while there is room."""
    service = Service(master, ServiceConfig(port=0))
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/rank", "http_version": "1.1"}
    scope |= {"raw_path": b"/v1/rank", "query_string": b"", "headers": []}
    rests: list[float] = []
    monkeypatch.setattr(gate, "sleep", rests.append)

    async def refused(count: int) -> int:
        found = sum(service.application.at_once(scope) is not None for _ in range(count))
        before = len(rests)
        await asyncio.sleep(0)
        assert len(rests) - before == (found > 0)
        return found

    async def run() -> None:
        assert await refused(2) == 0
        service.engine.desk.places = 0
        assert [await refused(3), await refused(1)] == [3, 1]
        assert rests == [gate.REST] * 2

    asyncio.run(run())
    service.engine.desk.close()


async def status(reader: asyncio.StreamReader) -> int:
    """Of the next response, read to its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
    return int(head.split()[1])
