"""Whatever is wrong with a request, the answer is a 4xx of one line that names the field; the service is unmoved."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any

import pytest
from tests.service.conftest import Answer, Running
from tests.service.tensors import as_bytes, as_tensors, send_bytes, send_json
from tests.service.wrong_requests import ANY_FORM, BATCH, GOOD, NATIVE
from tests.service.wrong_tensors import BINARY, TENSORS

pytestmark = pytest.mark.xdist_group("service")


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
    assert sum(count for name, count in grown.items() if 'status="4' in name) >= 60
    assert not any(count for name, count in grown.items() if 'status="5' in name)
    (started,) = (name for name in after if name.startswith("process_start_time_seconds"))
    assert after[started] == before[started]


def check(answer: Answer, field: str) -> None:
    assert answer.status == 400, answer.raw
    assert field in answer.error and "\n" not in answer.error


def test_the_request_that_is_changed_is_right(service: Running) -> None:
    content = as_tensors(GOOD)
    assert service.rank(GOOD).status == send_json(service, content).status == 200
    assert send_bytes(service, *as_bytes(content)).status == 200
    assert service.call("POST", "/v1/rank:batch", {"requests": [GOOD]}).status == 200


@pytest.mark.parametrize("name", ANY_FORM)
def test_in_any_form(service: Running, line: Any, name: str) -> None:
    changes, field = ANY_FORM[name]
    request = {**GOOD, **changes}
    check(service.rank(request, connection=line), field)
    batch = service.call("POST", "/v1/rank:batch", {"requests": [GOOD, request]}, connection=line)
    check(batch, field)
    assert "requests[1]." in batch.error
    content = as_tensors(request)
    check(send_json(service, content, line), field)
    check(send_bytes(service, *as_bytes(content), line), field)


@pytest.mark.parametrize("name", NATIVE)
def test_native(service: Running, line: Any, name: str) -> None:
    body, field = NATIVE[name]
    check(service.rank(body, connection=line), field)


@pytest.mark.parametrize("name", BATCH)
def test_batches(service: Running, line: Any, name: str) -> None:
    body, field = BATCH[name]
    check(service.call("POST", "/v1/rank:batch", body, connection=line), field)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(service: Running, line: Any, name: str) -> None:
    body, field = TENSORS[name]
    check(send_json(service, body, line), field)


@pytest.mark.parametrize("name", BINARY)
def test_bytes(service: Running, line: Any, name: str) -> None:
    head, data, length, field = BINARY[name]
    check(send_bytes(service, head, data, line, length), field)


def test_there_are_sixty_and_more_for_each_way() -> None:
    assert min(len(ANY_FORM) + len(more) for more in (NATIVE, BATCH, TENSORS, BINARY)) >= 60
