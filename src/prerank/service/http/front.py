"""Connections in front of an application: uvicorn's server with connections of its own taking."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.types import Scope

from prerank.service.http.accept import Acceptor, Board
from prerank.service.http.connection import connection_class
from prerank.service.refusal import RefusedError
from prerank.service.settings import ServiceConfig
from prerank.service.tls import Certificates


class Front(uvicorn.Server):
    """Serves until ``should_exit``, then answers what is in flight."""

    def __init__(
        self,
        application: Any,
        config: ServiceConfig,
        listener: socket.socket,
        certificates: Certificates | None = None,
        board: Board | None = None,
        number: int = 0,
        refused: Callable[[Scope], RefusedError | None] = lambda _: None,
    ) -> None:
        """Serve nothing yet.

        Args:
            application: of ASGI.
            config: the operator's settings.
            listener: listens; it is closed at the end.
            certificates: for TLS.
            board: of the workers that share the listener.
            number: of this one.
            refused: why a request is refused by its head alone, if it is.
        """
        super().__init__(
            uvicorn.Config(
                application,
                http=connection_class(config, self._closed, refused),
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=config.keep_alive_seconds,
                timeout_graceful_shutdown=config.grace_seconds,
            )
        )
        self._make: Callable[[], Acceptor] = lambda: Acceptor(
            listener, self._protocol, certificates, config.limits.head_seconds, board, number
        )
        self._acceptor: Acceptor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take connections."""
        await super().startup(sockets)
        self._acceptor = self._make()
        await self.begin()

    async def begin(self) -> None:
        """What comes after the preparations."""
        self.take()

    def take(self) -> None:
        """Take connections from now on."""
        assert self._acceptor is not None
        self._acceptor.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take those that wait and no more, and answer what is in flight."""
        assert self._acceptor is not None
        await self._acceptor.stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: an orderly end is exit code 0."""
        yield

    def _protocol(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _closed(self) -> None:
        if self._acceptor is not None:
            self._acceptor.closed()
