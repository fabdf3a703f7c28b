"""Whatever is wrong with a request, the answer is a 4xx of one line that names the field; the service is unmoved.

On each of four ways: JSON of our own, and the open protocol in JSON, in bytes and over gRPC.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import pytest
from tests.service.conftest import Answer, Running
from tests.service.rpc import CHOICES, as_message, call, channel_to, refusal
from tests.service.tensors import as_bytes, as_tensors, send_bytes, send_json
from tests.service.wrong_messages import MESSAGES
from tests.service.wrong_requests import ANY_FORM, BATCH, GOOD, NATIVE
from tests.service.wrong_tensors import ANY_TENSOR, BINARY, TENSORS

pytestmark = pytest.mark.xdist_group("service")

MANY = 250


@pytest.fixture(scope="module")
def line(service: Running) -> Iterator[http.client.HTTPConnection]:
    """One connection for all of them: no refusal closes it."""
    connection = service.connect()
    service.call("GET", "/healthz/live", connection=connection)
    socket = connection.sock
    before = service.numbers()
    yield connection
    assert connection.sock is socket
    after = service.numbers()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    for way in ("rank", "infer", "ModelInfer"):
        refused = {code: grown.get(f'prerank_requests_total{{endpoint="{way}",status="{code}"}}', 0) for code in CODES}
        assert sum(refused.values()) >= MANY
    assert not any(count for name, count in grown.items() if 'status="5' in name or 'status="INTERNAL"' in name)
    (started,) = (name for name in after if name.startswith("process_start_time_seconds"))
    assert after[started] == before[started]


CODES = ("400", "INVALID_ARGUMENT")


@pytest.fixture(scope="module")
def channel(service: Running, line: Any) -> Iterator[Any]:
    """One for all of them, too."""
    del line
    with channel_to(service) as channel:
        yield channel


def check(answer: Answer, field: str) -> None:
    assert answer.status == 400, answer.raw
    assert field in answer.error and "\n" not in answer.error


def check_call(channel: Any, message: Any, field: str) -> None:
    refused = refusal(channel, "ModelInfer", message)
    assert refused.code() == grpc.StatusCode.INVALID_ARGUMENT, refused
    assert field in refused.details() and "\n" not in refused.details()


def test_the_request_that_is_changed_is_right(service: Running, channel: Any) -> None:
    content = as_tensors(GOOD)
    assert service.rank(GOOD).status == send_json(service, content).status == 200
    assert send_bytes(service, *as_bytes(content)).status == 200
    assert service.call("POST", "/v1/rank:batch", {"requests": [GOOD]}).status == 200
    for in_bytes in (False, True):
        assert call(channel, "ModelInfer", as_message(content, in_bytes)).outputs


@pytest.mark.parametrize("name", ANY_FORM)
def test_in_any_form(service: Running, line: Any, channel: Any, name: str) -> None:
    changes, field = ANY_FORM[name]
    request = {**GOOD, **changes}
    check(service.rank(request, connection=line), field)
    batch = service.call("POST", "/v1/rank:batch", {"requests": [GOOD, request]}, connection=line)
    check(batch, field)
    assert "requests[1]." in batch.error
    content = as_tensors(request)
    check(send_json(service, content, line), field)
    check(send_bytes(service, *as_bytes(content), line), field)
    if {type(value) for value in content["parameters"].values()} <= set(CHOICES):
        check_call(channel, as_message(content, in_bytes=len(name) % 2 == 0), field)


@pytest.mark.parametrize("name", NATIVE)
def test_native(service: Running, line: Any, name: str) -> None:
    body, field = NATIVE[name]
    check(service.rank(body, connection=line), field)


@pytest.mark.parametrize("name", BATCH)
def test_batches(service: Running, line: Any, name: str) -> None:
    body, field = BATCH[name]
    check(service.call("POST", "/v1/rank:batch", body, connection=line), field)


@pytest.mark.parametrize("name", ANY_TENSOR)
def test_any_tensors(service: Running, line: Any, channel: Any, name: str) -> None:
    content, field = ANY_TENSOR[name]
    check(send_json(service, content, line), field)
    check(send_bytes(service, *as_bytes(content), line), field)
    for in_bytes in (False, True):
        check_call(channel, as_message(content, in_bytes), field)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(service: Running, line: Any, name: str) -> None:
    body, field = TENSORS[name]
    check(send_json(service, body, line), field)


@pytest.mark.parametrize("name", BINARY)
def test_bytes(service: Running, line: Any, name: str) -> None:
    head, data, length, field = BINARY[name]
    check(send_bytes(service, head, data, line, length), field)


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(channel: Any, name: str) -> None:
    check_call(channel, *MESSAGES[name])


@pytest.mark.parametrize("own", [(NATIVE,), (ANY_TENSOR, TENSORS), (ANY_TENSOR, BINARY), (ANY_TENSOR, MESSAGES)])
def test_there_are_many_for_each_way(own: tuple[Mapping[str, Any], ...]) -> None:
    """Of different content, whatever they are called."""
    contents = {json.dumps(content[:-1], default=repr) for corpus in (ANY_FORM, *own) for content in corpus.values()}
    assert len(contents) >= MANY
