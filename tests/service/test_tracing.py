"""Spans: within the caller's trace, of the parts of a request, in their order, and none unless asked for."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from tests.service.rpc import as_message
from tests.service.tensors import as_tensors
from tests.service.test_rank import ITEMS

from prerank.errors import ConfigError
from prerank.publish.generation import locate
from prerank.service import tracing
from prerank.service.http.app import Service
from prerank.service.open.procedures import SERVICE
from prerank.service.open.rpc import RpcServer
from prerank.service.settings import ServiceConfig
from prerank.service.tracing import OpenTelemetry

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{CALLER}-01"
RANK = {"candidates": ITEMS[:3], "user": {"city": "city-1"}}
INFER = as_message(as_tensors(RANK), in_bytes=True)


class Traced:
    """A service in this process, and its spans."""

    def __init__(self, directory: Path) -> None:
        self.exporter = InMemorySpanExporter()
        self.service = Service(directory, ServiceConfig(preload=False, threads=1, grpc_port=0))
        self.tracing = OpenTelemetry(self.exporter)
        self.service.engine.tracing = self.service.engine.desk.tracing = self.tracing
        self.service.engine.live._serve(locate(directory))

    def call(self, path: str, body: Any, *headers: tuple[bytes, bytes]) -> tuple[int, dict[str, Any]]:
        """Status of a request, and its spans by name."""
        self.exporter.clear()
        sent: list[Any] = []
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
        }
        scope["headers"] = [(b"content-type", b"application/json"), *headers]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.service.application(scope, receive, send))
        return sent[0]["status"], self.spans()

    def rpc(self, name: str, message: bytes, *metadata: tuple[str, str]) -> tuple[str, dict[str, Any]]:
        """Status of a call over gRPC, and its spans by name."""
        self.exporter.clear()

        async def run() -> str:
            server = RpcServer(self.service.engine, None)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
                call = channel.unary_unary(f"/{SERVICE}/{name}")(message, metadata=metadata, timeout=60)
                code = await call.code()
            await server.stop()
            return str(code.name)

        return asyncio.run(run()), self.spans()

    def spans(self) -> dict[str, Any]:
        """What was told since, by name."""
        self.tracing.flush()
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture(scope="module")
def traced(master: Path) -> Iterator[Traced]:
    made = Traced(master)
    yield made
    made.service.engine.desk.close()
    made.tracing.close()


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/rank", RANK, "POST rank"),
        ("/v1/rank:batch", {"requests": [RANK, RANK]}, "POST rank_batch"),
        (
            "/v2/models/prerank/infer",
            {"inputs": [{"name": "candidates", "datatype": "BYTES", "shape": [2], "data": ITEMS[:2]}]},
            "POST infer",
        ),
    ],
)
def test_parts_of_a_request_in_the_callers_trace(traced: Traced, path: str, body: Any, name: str) -> None:
    status, spans = traced.call(path, body, (b"traceparent", PARENT.encode()))
    assert status == 200
    check(spans, name, {"http.response.status_code": 200, "prerank.generation": traced.service.engine.live.generation})


def test_a_call_over_grpc_in_the_callers_trace(traced: Traced) -> None:
    code, spans = traced.rpc("ModelInfer", INFER.SerializeToString(), ("traceparent", PARENT))
    assert code == "OK"
    generation = traced.service.engine.live.generation
    check(spans, f"{SERVICE}/ModelInfer", {"rpc.grpc.status_code": "OK", "prerank.generation": generation})


def check(spans: dict[str, Any], name: str, attributes: dict[str, Any]) -> None:
    """The parts follow each other within the whole, that is within the caller's, and nothing is told of the user."""
    assert set(spans) == {name, "decode", "queue", "score", "encode"}
    whole = spans.pop(name)
    assert f"{whole.context.trace_id:032x}" == TRACE and f"{whole.parent.span_id:016x}" == CALLER
    assert dict(whole.attributes) == attributes and whole.kind is SpanKind.SERVER
    ends = [whole.start_time]
    for part in ("decode", "queue", "score", "encode"):
        span = spans[part]
        assert span.parent.span_id == whole.context.span_id and span.context.trace_id == whole.context.trace_id
        assert ends[-1] <= span.start_time + 1_000_000 and span.start_time <= span.end_time  # clocks differ by a bit
        ends.append(span.end_time)
    assert ends[-1] <= whole.end_time
    everything = " ".join(str(dict(span.attributes)) for span in (whole, *spans.values()))
    assert "city" not in everything and "item" not in everything


def test_without_a_caller_a_trace_begins(traced: Traced) -> None:
    for headers in ((), ((b"traceparent", b"nonsense"),)):
        _, spans = traced.call("/v1/rank", RANK, *headers)
        assert spans["POST rank"].parent is None
        assert spans["POST rank"].resource.attributes["service.name"] == "prerank"


def test_refusals_are_told(traced: Traced) -> None:
    status, spans = traced.call("/v1/rank", {"candidates": 1})
    assert status == 400 and spans["POST rank"].attributes["http.response.status_code"] == 400
    assert spans["POST rank"].status.is_unset and "score" not in spans
    status, spans = traced.call("/nothing", {})
    assert status == 404 and set(spans) == {"POST none"}


def test_refused_calls_over_grpc_are_told(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of the caller's is no error of the service; without a caller a trace begins."""
    name = f"{SERVICE}/ModelInfer"
    code, spans = traced.rpc("ModelInfer", b"\xff")
    assert code == "INVALID_ARGUMENT" and spans[name].attributes["rpc.grpc.status_code"] == code
    assert spans[name].parent is None and spans[name].status.is_unset and "score" not in spans
    monkeypatch.setattr(traced.service.engine, "rank", lambda *_: 1 / 0)
    code, spans = traced.rpc("ModelInfer", INFER.SerializeToString())
    assert code == "INTERNAL" and spans[name].attributes["rpc.grpc.status_code"] == code
    assert not spans[name].status.is_ok and not spans[name].status.is_unset


def test_a_fault_is_an_error(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced.service.engine, "rank", lambda *_: 1 / 0)
    status, spans = traced.call("/v1/rank", RANK)
    assert status == 500 and not spans["POST rank"].status.is_ok and not spans["POST rank"].status.is_unset


def test_off_unless_asked_for(master: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from prerank.service.http.app import Service; "
        "from prerank.service.settings import ServiceConfig; Service(Path(sys.argv[1]), ServiceConfig()); "
        "assert not [name for name in sys.modules if name.startswith('opentelemetry.sdk')]"
    )
    subprocess.run([sys.executable, "-c", program, str(master)], check=True)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(tracing, "import_module", missing)
    with pytest.raises(ConfigError, match=r"prerank\[otel\]"):
        OpenTelemetry()
