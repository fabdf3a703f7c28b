"""Bytes that two servers could read differently: one refusal, and what comes behind it is taken for no request."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from tests.service.conftest import Running

pytestmark = pytest.mark.xdist_group("service")

HIDDEN = b"GET /healthz/live HTTP/1.1\r\nhost: hidden\r\nconnection: close\r\n\r\n"
POST = b"POST /v1/rank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
BODY = b'{"candidates": []}'
CHUNKED = b"12\r\n" + BODY + b"\r\n0\r\n\r\n"

LENGTHS = (
    b"-1",
    b"+18",
    b"x",
    b"0x12",
    b"18, 18",
    b"18,19",
    b"1 8",
    b"18.0",
    b"1e1",
    b"18\x0b",
    b"99999999999999999999",
    b"\xb2",
)
ENCODINGS = (
    *(b"x", b"xchunked", b"chunkedx", b"chunked, identity", b"identity", b"gzip", b"chunked;q=1", b'"chunked"'),
    *(b"chunked\x0b", b"\x0bchunked", b"chun ked", b"\0chunked", b"chunked\0", b"CHUNKED,"),
)
SIZES = (
    b"-12",
    b"+12",
    b"0x12",
    b"g",
    b"",
    b" 12",
    b"12 x",
    b"1_2",
    b"ffffffffffffffffff",
    b"\x0012",
    b"12\r",
    b"12\n",
)

WRONG: dict[str, bytes] = {
    **{f"length {value!r}": POST + b"content-length: " + value + b"\r\n\r\n" + BODY for value in LENGTHS},
    **{f"encoding {value!r}": POST + b"transfer-encoding: " + value + b"\r\n\r\n" + CHUNKED for value in ENCODINGS},
    **{
        f"chunk of {size!r}": POST + b"transfer-encoding: chunked\r\n\r\n" + size + b"\r\n" + BODY + b"\r\n0\r\n\r\n"
        for size in SIZES
    },
    "two lengths": POST + b"content-length: 18\r\ncontent-length: 19\r\n\r\n" + BODY,
    "a length twice": POST + b"content-length: 18\r\ncontent-length: 18\r\n\r\n" + BODY,
    "length, then encoding": POST + b"content-length: 18\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED,
    "encoding, then length": POST + b"transfer-encoding: chunked\r\ncontent-length: 18\r\n\r\n" + CHUNKED,
    "length zero and encoding": POST + b"content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED,
    "encoding twice": POST + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n" + CHUNKED,
    "a space before the colon": POST + b"content-length : 18\r\n\r\n" + BODY,
    "a space before another": POST + b"transfer-encoding : chunked\r\n\r\n" + CHUNKED,
    "a tab before the colon": POST + b"transfer-encoding\t: chunked\r\n\r\n" + CHUNKED,
    "a space in a name": POST + b"transfer encoding: chunked\r\n\r\n" + CHUNKED,
    "a space before a name": POST + b"x: y\r\n transfer-encoding: chunked\r\n\r\n" + CHUNKED,
    "a continued value": POST + b"transfer-encoding:\r\n chunked\r\n\r\n" + CHUNKED,
    "no name": POST + b": chunked\r\n\r\n",
    "no colon": POST + b"content-length 18\r\n\r\n" + BODY,
    "a null in a name": POST + b"content-length\0: 18\r\n\r\n" + BODY,
    "a null in a value": POST + b"x: a\0b\r\ncontent-length: 18\r\n\r\n" + BODY,
    "a carriage return in a value": POST + b"x: a\rcontent-length: 18\r\n\r\n" + BODY,
    "a carriage return alone": POST + b"content-length: 18\r\r\n\r\n" + BODY,
    "no method": b" /healthz/live HTTP/1.1\r\n\r\n",
    "no path": b"GET HTTP/1.1\r\n\r\n",
    "spaces in a path": b"GET /healthz/live x HTTP/1.1\r\n\r\n",
    "no version": b"GET /healthz/live\r\n\r\n",
    "another version": b"GET /healthz/live HTTP/2.0\r\n\r\n",
    "version 1.10": b"GET /healthz/live HTTP/1.10\r\n\r\n",
    "another protocol": b"GET /healthz/live HTPP/1.1\r\n\r\n",
    "a method in small letters": b"get /healthz/live HTTP/1.1\r\n\r\n",
    "an unknown method": b"GETS /healthz/live HTTP/1.1\r\n\r\n",
    "a null in a path": b"GET /healthz/\0live HTTP/1.1\r\n\r\n",
    "a chunk's end missing": POST + b"transfer-encoding: chunked\r\n\r\n12\r\n" + BODY + b"0\r\n\r\n",
    "a chunk too long": POST + b"transfer-encoding: chunked\r\n\r\n11\r\n" + BODY + b"\r\n0\r\n\r\n",
}


@pytest.fixture(autouse=True)
def _goes_on(service: Running) -> Iterator[None]:
    yield
    assert service.call("GET", "/healthz/live").status == 200


def exchange(server: Running, sent: bytes) -> bytes:
    """All that comes back until the other side ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(sent)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


@pytest.mark.parametrize("name", WRONG)
def test_one_refusal_and_the_end(service: Running, name: str) -> None:
    answer = exchange(service, WRONG[name] + HIDDEN)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1, answer
    assert b"connection: close" in head.lower()
    assert json.loads(body) == {"error": "request: not valid HTTP/1.1"}


def test_requests_one_after_the_other_are_two(service: Running) -> None:
    """What the ones above are changed from; a proxy may send them together."""
    for first in (POST + b"content-length: 18\r\n\r\n" + BODY, POST + b"transfer-encoding: chunked\r\n\r\n" + CHUNKED):
        answer = exchange(service, first + HIDDEN)
        assert answer.count(b"HTTP/1.1 200 ") == 2 and answer.count(b"HTTP/1.1 ") == 2
