"""gRPC: too much, too slow, too late, without a token, at the end; each is refused by name, and the service goes on."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.service.conftest import Running, Serve
from tests.service.rpc import PATH, as_message, call, channel_to, refusal
from tests.service.tensors import as_tensors

from prerank.errors import ArtefactError, ConfigError, RequestError
from prerank.service.engine import Engine
from prerank.service.open.protobuf import CLASSES
from prerank.service.open.rpc import RpcServer, refuse
from prerank.service.refusal import RefusedError, TooLateError, busy
from prerank.service.serve import serve as serve_here
from prerank.service.settings import Limits, ServiceConfig

pytestmark = pytest.mark.xdist_group("service")

TOKEN = "correct-horse-battery-staple"
SETTINGS = (
    "grpc_port=0",
    "limits.body_bytes=2000",
    "limits.head_bytes=2048",
    "limits.candidates=20",
    "limits.head_seconds=0.4",
    "limits.body_seconds=4",
    "drain_seconds=0.2",
    "buffer_bytes=2000",
    "access_log=true",
)
AUTHORIZED = (("authorization", f"Bearer {TOKEN}"),)
SMALL = as_message(as_tensors({"candidates": ["item-0001"]}), True)
PROTECTED = {
    "ServerMetadata": b"",
    "ModelReady": CLASSES["ModelRequest"](name="prerank"),
    "ModelMetadata": CLASSES["ModelRequest"](name="prerank"),
    "ModelInfer": SMALL,
}


@pytest.fixture(scope="module")
def strict(serve: Serve, master: Path) -> Running:
    """A server with little room that asks for a token."""
    return serve(master, *(part for setting in SETTINGS for part in ("--set", setting)), token=TOKEN)


@pytest.fixture
def channel(strict: Running) -> Iterator[Any]:
    """After each test another one is answered."""
    with channel_to(strict) as channel:
        yield channel
        assert call(channel, "ModelInfer", SMALL, metadata=AUTHORIZED).outputs


def of_stream(channel: Any, messages: Iterator[bytes]) -> Any:
    """A call whose message is sent when it is there."""
    return channel.stream_unary(f"{PATH}ModelInfer").future(messages, metadata=AUTHORIZED, timeout=60)


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", f"Bearer {TOKEN}x"),),
        (("authorization", f"Bearer {TOKEN[:-1]}"),),
        (("authorization", f"Basic {TOKEN}"),),
        (("authorization", TOKEN),),
        (("authorization-bin", f"Bearer {TOKEN}".encode()),),
        (("token", f"Bearer {TOKEN}"),),
        AUTHORIZED + AUTHORIZED,
    ],
)
def test_no_answer_without_the_token(channel: Any, metadata: Any) -> None:
    for name, message in PROTECTED.items():
        refused = refusal(channel, name, message, metadata=metadata)
        assert refused.code() == grpc.StatusCode.UNAUTHENTICATED
        assert refused.details() == "authorization: send the header 'Authorization: Bearer TOKEN'"
    assert call(channel, "ServerLive", metadata=metadata).live  # probes need none
    assert call(channel, "ServerReady", metadata=metadata).ready


def test_entries(channel: Any) -> None:
    message = as_message(as_tensors({"candidates": ["x"] * 21}), True)
    refused = refusal(channel, "ModelInfer", message, metadata=AUTHORIZED)
    assert refused.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.details() == "inputs.candidates: has 21 entries, 20 are allowed"


def test_messages(channel: Any) -> None:
    for size in (2001, 1_000_000):
        refused = refusal(channel, "ModelInfer", b"x" * size, metadata=AUTHORIZED)
        assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and f"({size} vs. 2000)" in refused.details()
    nothing = of_stream(channel, iter(()))
    assert nothing.exception().details() == "body: is missing, or more than 2000 bytes"


def test_compressed_messages_are_not_opened(strict: Running, channel: Any) -> None:
    def most() -> int:
        status = Path(f"/proc/{strict.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])

    before = most()
    for kind in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        refused = refusal(channel, "ModelInfer", b"\0" * 100_000_000, metadata=AUTHORIZED, compression=kind)
        assert refused.code() == grpc.StatusCode.UNIMPLEMENTED
        refused = refusal(channel, "ModelInfer", b"\0" * 1_000, metadata=AUTHORIZED, compression=kind)
        assert refused.code() == grpc.StatusCode.UNIMPLEMENTED
    assert most() - before < 50_000  # kilobytes


def test_metadata(channel: Any) -> None:
    for more in ((("x", "y" * 2100),), tuple((f"x-{number}", "y") for number in range(100))):
        refused = refusal(channel, "ModelInfer", SMALL, metadata=AUTHORIZED + more)
        assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "metadata size" in refused.details()


def test_slow_messages(channel: Any) -> None:
    """The second one waits in vain for the room that the first one has."""
    never = threading.Event()

    def later() -> Iterator[bytes]:
        never.wait(30)
        yield SMALL.SerializeToString()

    calls = [of_stream(channel, later()) for _ in range(2)]
    for each in calls:
        assert each.exception().code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert each.exception().details() == "body: did not arrive within 4 seconds"
    never.set()


def test_connections_that_say_nothing(strict: Running, channel: Any) -> None:
    del channel
    with socket.create_connection(("127.0.0.1", strict.rpc_port), timeout=30) as silent:
        while silent.recv(1000):
            pass
    with socket.create_connection(("127.0.0.1", strict.rpc_port), timeout=30) as other:
        other.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        while other.recv(1000):
            pass


def test_deadlines(channel: Any) -> None:
    """The caller's, or the request's: the earlier one counts."""
    message = as_message({**as_tensors({"candidates": ["item-0001"]}), "parameters": {"deadline_ms": 1e-6}}, True)
    refused = refusal(channel, "ModelInfer", message, metadata=AUTHORIZED)
    assert refused.code() == grpc.StatusCode.DEADLINE_EXCEEDED and refused.details().startswith("deadline_ms: ")
    assert dict(refused.trailing_metadata()) == {"retry-after": "1"}
    with pytest.raises(grpc.RpcError) as late:
        channel.unary_unary(f"{PATH}ModelInfer")(SMALL.SerializeToString(), metadata=AUTHORIZED, timeout=1e-6)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_long_names_do_not_make_long_trailers(channel: Any) -> None:
    refused = refusal(channel, "ModelReady", CLASSES["ModelRequest"](name="é" * 900), metadata=AUTHORIZED)
    assert refused.code() == grpc.StatusCode.NOT_FOUND and refused.details().startswith("model 'éééé")


class Context:
    """What is told to a call."""

    code: Any = None
    details = ""
    trailers: tuple[Any, ...] = ()

    def set_code(self, code: Any) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.trailers = metadata


@pytest.mark.parametrize(
    ("error", "code", "trailers"),
    [
        (RequestError("k: is\nwrong"), "INVALID_ARGUMENT", ()),
        (RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "k: is wrong"), "RESOURCE_EXHAUSTED", ()),
        (busy(HTTPStatus.TOO_MANY_REQUESTS, "k: is wrong", 1.5), "RESOURCE_EXHAUSTED", (("retry-after", "2"),)),
        (busy(HTTPStatus.SERVICE_UNAVAILABLE, "k: is wrong", 0), "UNAVAILABLE", (("retry-after", "1"),)),
        (TooLateError(HTTPStatus.SERVICE_UNAVAILABLE, "k: is wrong"), "DEADLINE_EXCEEDED", ()),
    ],
)
def test_codes(error: Exception, code: str, trailers: Any) -> None:
    context = Context()
    assert refuse(context, error) is context.code is getattr(grpc.StatusCode, code)
    assert context.details == "k: is wrong" and context.trailers == trailers


def test_a_fault_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    context = Context()
    assert refuse(context, KeyError("secret")) is grpc.StatusCode.INTERNAL
    assert context.details == "a fault of the service; its log says more" and "secret" in caplog.text


def test_many_calls_at_a_time_and_a_service_that_starts(master: Path) -> None:
    """In this process, so that nothing depends on time: calls whose messages do not come stay until they are ended."""
    config = ServiceConfig(grpc_port=0, connections=2, limits=Limits(body_seconds=600))
    engine = Engine(master, config)  # no generation is loaded

    async def run() -> None:
        server = RpcServer(engine, None)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
            live, ready = (channel.unary_unary(f"{PATH}Server{name}") for name in ("Live", "Ready"))
            assert CLASSES["ServerLiveResponse"].FromString(await live(b"")).live
            assert not CLASSES["ServerReadyResponse"].FromString(await ready(b"")).ready
            with pytest.raises(grpc.aio.AioRpcError, match="the service is starting") as starting:
                await channel.unary_unary(f"{PATH}ModelInfer")(SMALL.SerializeToString())
            assert starting.value.code() == grpc.StatusCode.UNAVAILABLE
            assert ("retry-after", "1") in tuple(starting.value.trailing_metadata())
            engine.desk.places = 0
            with pytest.raises(grpc.aio.AioRpcError, match="the queue is full") as queued:
                await channel.stream_unary(f"{PATH}ModelInfer")()  # whose message never comes
            assert queued.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            engine.desk.places = 1
            calls = [channel.stream_unary(f"{PATH}ModelInfer")() for _ in range(2)]
            with pytest.raises(grpc.aio.AioRpcError) as full:
                while True:
                    await live(b"")  # until both have arrived
            assert full.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            for each in calls:
                each.cancel()
        await server.stop()

    asyncio.run(run())
    engine.desk.close()


def test_an_address_that_is_taken(master: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1, grpc_port {port}"):
            serve_here(master, ServiceConfig(port=0, grpc_port=port), lambda _: None)


def test_nothing_to_serve(tmp_path: Path) -> None:
    addresses: list[str] = []
    with pytest.raises(ArtefactError, match="nothing is published here"):
        serve_here(tmp_path, ServiceConfig(port=0, grpc_port=0), addresses.append)
    assert [address.partition(":")[0] for address in addresses] == ["http", "grpc"]


def test_messages_are_not_in_the_default_pool() -> None:
    """A program may register ``inference.*`` itself, as clients do."""
    program = (
        "import prerank.service.open.protobuf\n"
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "file = descriptor_pb2.FileDescriptorProto(name='open.proto', package='inference', syntax='proto3')\n"
        "file.message_type.add(name='ModelInferRequest').field.add(name='other', number=1, type=9, label=1)\n"
        "descriptor_pool.Default().AddSerializedFile(file.SerializeToString())\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_the_end_comes_with_calls_in_flight(strict: Running) -> None:
    told = threading.Event()

    def later() -> Iterator[bytes]:
        told.wait(60)
        yield SMALL.SerializeToString()

    with channel_to(strict) as channel:
        begun = of_stream(channel, later())
        assert call(channel, "ServerReady").ready  # and so the call before it has arrived
        strict.process.send_signal(signal.SIGTERM)
        while "draining" not in strict.log.read_text():
            time.sleep(0.01)
        told.set()
        assert CLASSES["ModelInferResponse"].FromString(begun.result(60)).outputs
        assert strict.process.wait(60) == 0


def test_logs_are_json_and_hold_no_secret(strict: Running) -> None:
    """Of all the calls above; run last."""
    lines = [json.loads(line) for line in strict.log.read_text().splitlines()]
    calls = [line for line in lines if line.get("path") == f"{PATH}ModelInfer"]
    assert {"OK", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"} <= {line["status"] for line in calls}
    assert "INTERNAL" not in {line["status"] for line in calls}
    assert all(line["method"] == "POST" and line["ms"] >= 0 for line in calls)
    assert TOKEN not in strict.log.read_text()
