"""Nothing of a request names a file: what the process opens while it answers is written down, and it is nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import unquote

import pytest
from tests.service.rpc import as_message
from tests.service.tensors import as_tensors
from tests.service.wrong_requests import GOOD

from prerank.errors import PrerankError
from prerank.publish.generation import locate
from prerank.service.admin import Admin
from prerank.service.http.app import Service
from prerank.service.open.procedures import Call, OpenInferenceRpc
from prerank.service.open.protobuf import CLASSES
from prerank.service.settings import ServiceConfig

TRAVERSAL = (
    *("..", "../..", "../CURRENT", "../../../../etc/passwd", "/etc/passwd", "prerank/../../etc/passwd"),
    *("%2e%2e", "%2e%2e%2fCURRENT", "..%2f..%2fetc%2fpasswd", "%252e%252e%252fetc", "..%5c..%5cetc", "....//....//etc"),
    *(
        "file:///etc/passwd",
        "~root",
        "$HOME",
        "%00",
        "prerank%00.json",
        "CURRENT",
        "generations",
        ".lock",
        "C:%5cboot.ini",
    ),
)
WHITESPACE = (
    "%20",
    "prerank%20",
    "%20prerank",
    "%09",
    "prerank%0a",
    "prerank%0d%0a",
    "%0b",
    "%c2%a0prerank",
    "prerank%e2%80%8b",
)
ENDPOINTS = (
    *("/{}", "/v1/{}", "/v2/{}", "/healthz/{}", "/v2/health/{}", "/v2/models/{}", "/v2/models/{}/ready"),
    *("/v2/models/{}/infer", "/v2/models/prerank/{}", "/v2/models/prerank/versions/{}"),
    *(
        "/v2/models/prerank/versions/{}/ready",
        "/v2/models/prerank/versions/{}/infer",
        "/v2/models/{}/versions/{}/infer",
    ),
)

opened: list[str] = []
watching = False


def note(event: str, arguments: tuple[Any, ...]) -> None:
    """Called by Python at every event that touches the world; cannot be taken away again."""
    if watching and (event == "open" or event.startswith(("os.", "shutil.", "glob.", "subprocess.", "ctypes.dlopen"))):
        opened.append(str(arguments[0]) if arguments else event)


@pytest.fixture(scope="module")
def here(master: Path) -> Service:
    """The service in this process, with a generation."""
    service = Service(master, ServiceConfig())
    assert service.engine.live.look()
    sys.addaudithook(note)
    return service


def ask(
    application: Any, method: str, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
) -> tuple[int, Any]:
    """Status and content, as the web server would ask for them."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    every = [(b"content-type", b"application/json"), *headers]
    scope = {"type": "http", "http_version": "1.1", "method": method, "headers": every, "query_string": b""}
    asyncio.run(application({**scope, "path": unquote(path), "raw_path": path.encode()}, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_the_watch_sees_files(here: Service, master: Path) -> None:
    global watching  # noqa: PLW0603
    watching = True
    (master / "CURRENT").read_text()
    watching = False
    assert here and any("CURRENT" in each for each in opened)


@pytest.mark.parametrize("name", TRAVERSAL + WHITESPACE)
def test_names_in_paths(here: Service, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    body = json.dumps(as_tensors(GOOD)).encode()
    assert (
        ask(here.application, "POST", "/v2/models/prerank/infer", body)[0] == 200
    )  # what is imported late is there then
    opened.clear()
    monkeypatch.setattr(sys.modules[__name__], "watching", True)
    for endpoint in ENDPOINTS:
        for method in ("GET", "POST"):
            status, content = ask(here.application, method, endpoint.replace("{}", name), body)
            assert status in (404, 405) and list(content) == ["error"], (endpoint, content)
    assert not opened


class Nobody:
    """No worker."""

    ready = True

    def workers(self) -> list[Any]:
        return []

    def look_now(self) -> None:
        raise AssertionError("switched")


@pytest.mark.parametrize("name", TRAVERSAL + WHITESPACE)
def test_names_of_generations_in_the_operators_api(
    here: Service, master: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It reads what is published, and nothing else."""
    group: Any = Nobody()
    admin, shown = Admin(master, here.config, b"token", group), [(b"authorization", b"Bearer token")]
    assert ask(admin, "GET", "/v1/generations", b"", shown)[0] == 200
    opened.clear()
    monkeypatch.setattr(sys.modules[__name__], "watching", True)
    for wanted in (name, unquote(name), f"{locate(master).name}/{unquote(name)}", f"../generations/{name}"):
        status, content = ask(admin, "POST", "/v1/switch", json.dumps({"generation": wanted}).encode(), shown)
        assert status == 404 and content["error"].startswith("generation: ")
    for endpoint in ("/{}", "/v1/switch/{}", "/v1/generations/{}"):
        for method in ("GET", "POST"):
            assert ask(admin, method, endpoint.replace("{}", name), b"{}", shown)[0] in (404, 405)
    assert opened and not [place for place in opened if not Path(place).is_relative_to(master)]


@pytest.mark.parametrize("name", TRAVERSAL + WHITESPACE)
def test_names_in_calls(here: Service, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rpc, name = OpenInferenceRpc(here.engine), unquote(name)
    infer = as_message(as_tensors(GOOD), in_bytes=True)
    fields: list[dict[str, Any]] = [
        {"user": {name: "x"}}, {"context": {name: "x"}}, {"pairs": {name: ["x"] * 4}},
        {"history": [{name: "x"}]}, {"ranking": name}, {"unknown": name}, {name: 1},
    ]  # fmt: skip
    calls = [
        (rpc.model, CLASSES["ModelRequest"](name=name)),
        (rpc.model, CLASSES["ModelRequest"](name="prerank", version=name)),
        (rpc.model_ready, CLASSES["ModelRequest"](name=name)),
        (rpc.infer, as_message(as_tensors(GOOD), True, model=name)),
        (rpc.infer, as_message(as_tensors(GOOD), True, version=name)),
        *((rpc.infer, as_message(as_tensors({"candidates": ["x"] * 4, **more}), True)) for more in fields),
    ]
    asyncio.run(rpc.infer(Call(infer, perf_counter(), None)))
    opened.clear()
    monkeypatch.setattr(sys.modules[__name__], "watching", True)
    for procedure, message in calls:
        with pytest.raises(PrerankError):
            asyncio.run(procedure(Call(message, perf_counter(), None)))
    for free in ({"candidates": [name], "columns": {name: [1.0]}}, {"candidates": ["x"], "user": {"city": name}}):
        answer = asyncio.run(rpc.infer(Call(as_message(as_tensors(free), True), perf_counter(), None)))
        assert answer.model_name == "prerank"
    assert not opened
