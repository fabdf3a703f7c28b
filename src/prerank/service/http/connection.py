"""HTTP/1.1 connections whose clients can neither pile up bytes nor time, nor go without being noticed."""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from prerank.service.presence import Presence
from prerank.service.refusal import NOT_HTTP, RefusedError, error_body, later
from prerank.service.settings import ServiceConfig

FIRST = 0.5  # seconds that the first request of a connection may take while the service ends


class Connection(HttpToolsProtocol):
    """uvicorn's connection with bounds on the head of a request: its bytes, and the time that it takes.

    A head that is complete is measured by the gate; here is what never completes. A subclass sets ``settings``,
    ``refused``, which says what is refused by its head alone, and ``closed``, which is told of an end.
    """

    settings: ServiceConfig
    refused: Callable[[Scope], RefusedError | None]
    closed: Callable[[], None]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless there are too many."""
        self._pending = 0  # bytes of a head that is not complete
        self._in_head = True
        self._slow: TimerHandle | None = None
        self._presence = Presence()
        super().connection_made(transport)
        if len(self.connections) > self.settings.connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; come again", later(1))
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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Answer, unless the head is reason enough to refuse."""
        scope: Any = cycle.scope
        if (refusal := self.refused(scope)) is None:
            super()._start_asgi_task(cycle, app)
            return
        cycle.response_started = cycle.response_complete = True  # the body is not kept
        self._say(refusal, last=not cycle.keep_alive)
        self.on_response_complete()

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

    def _refuse(self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._say(RefusedError(status, message, headers), last=True)

    def _say(self, refusal: RefusedError, last: bool) -> None:
        """Send a whole response, after which the connection is closed if it is the last."""
        dated = [(name.decode(), value.decode()) for name, value in self.server_state.default_headers]
        own = {**refusal.headers, "connection": "close"} if last else refusal.headers
        self.transport.write(_rendered(refusal.status, str(refusal), (*dated, *own.items())))
        if last:
            self.transport.close()


def connection_class(
    config: ServiceConfig, closed: Callable[[], None], refused: Callable[[Scope], RefusedError | None]
) -> type[Any]:
    """The class of a service's connections.

    Args:
        config: the operator's settings.
        closed: told by each when it has ended.
        refused: why a request is not answered, if its head is reason enough.
    """
    own = {"settings": config, "closed": staticmethod(closed), "refused": staticmethod(refused)}
    return type("ServiceConnection", (Connection,), own)


@lru_cache(64)
def _rendered(status: HTTPStatus, message: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    """A whole response; under overload it is the same one again and again."""
    body = error_body(message)
    lines = [f"HTTP/1.1 {status} {status.phrase}", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
