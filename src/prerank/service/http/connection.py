"""HTTP/1.1 connections whose clients can neither pile up bytes nor time, nor go without being noticed."""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from prerank.service.presence import Presence
from prerank.service.refusal import NOT_HTTP, error_body
from prerank.service.settings import ServiceConfig

FIRST = 0.5  # seconds that the first request of a connection may take while the service ends


class Connection(HttpToolsProtocol):
    """uvicorn's connection with bounds on the head of a request: its bytes, and the time that it takes.

    A head that is complete is measured by the gate; here is what never completes. A subclass sets ``settings`` and
    ``closed``, which is told of an end.
    """

    settings: ServiceConfig
    closed: Callable[[], None]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless there are too many."""
        self._pending = 0  # bytes of a head that is not complete
        self._in_head = True
        self._slow: TimerHandle | None = None
        self._presence = Presence()
        super().connection_made(transport)
        if len(self.connections) > self.settings.connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; come again", "Retry-After: 1\r\n")
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_timer()
        super().connection_lost(exc)
        self._presence.leave()
        self.closed()

    def shutdown(self) -> None:
        """End as soon as nothing is asked; of a connection that is just made, a request may be on its way."""
        if self.cycle is None and not self.transport.is_closing():
            self.loop.call_later(FIRST, super().shutdown)
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Take in bytes, fewer than a head may have as long as it is one."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._pending += len(data)
            if self._pending > self.settings.limits.head_bytes:
                message = f"headers: more than {self.settings.limits.head_bytes} bytes of request line and headers"
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)

    def on_message_begin(self) -> None:
        """A request line begins."""
        self._in_head, self._pending = True, 0
        self._start_timer()
        super().on_message_begin()
        self.scope["presence"] = self._presence  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        """The gate takes over."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is here; what is read from now on says whether its client is."""
        super().on_message_complete()
        if not self.pipeline:
            self.flow.resume_reading()  # a large body had stopped it

    def send_400_response(self, msg: str) -> None:
        """Say that these bytes are not HTTP."""
        del msg
        self._refuse(HTTPStatus.BAD_REQUEST, NOT_HTTP)

    def _start_timer(self) -> None:
        if self._slow is None:
            self._slow = self.loop.call_later(self.settings.limits.head_seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _too_slow(self) -> None:
        self._slow = None
        if not self.transport.is_closing():
            seconds = self.settings.limits.head_seconds
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"headers: did not arrive within {seconds:g} seconds")

    def _refuse(self, status: HTTPStatus, message: str, headers: str = "") -> None:
        body = error_body(message)
        head = (
            f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: application/json\r\n{headers}"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def connection_class(config: ServiceConfig, closed: Callable[[], None]) -> type[Any]:
    """The class of a service's connections, each of which tells when it has ended."""
    return type("ServiceConnection", (Connection,), {"settings": config, "closed": staticmethod(closed)})
