"""A process that answers: from its first connection to the last response."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from prerank.service.http.accept import Board
from prerank.service.http.app import Service
from prerank.service.http.front import Front
from prerank.service.tls import Certificates

if TYPE_CHECKING:
    from prerank.service.open.rpc import RpcServer

log = logging.getLogger(__name__)


class Server(Front):
    """A front with a generation to load at the start, gRPC beside it, and a drain before the end.

    Attributes:
        failure: why there was nothing to begin with.
    """

    def __init__(
        self,
        service: Service,
        listener: socket.socket,
        certificates: Certificates | None,
        *,
        begun: Callable[[int | None], None] = lambda _: None,
        changed: Callable[[], None] = lambda: None,
        waits: bool = False,
        board: Board | None = None,
        number: int = 0,
    ) -> None:
        """Serve nothing yet.

        Args:
            service: what answers.
            listener: listens; the server closes it.
            certificates: for TLS.
            begun: called with the port of gRPC, if there is one, once connections are taken, or will be when it no
                longer ``waits``.
            changed: called when the service's state has changed.
            waits: no connection is taken before a generation is warm.
            board: of the workers that share the listener.
            number: of this one.
        """
        application = service.application
        super().__init__(application, service.config, listener, certificates, board, number, application.at_once)
        self.service = service
        self.rpc = _rpc_server(service, certificates)
        self.live = service.engine.live
        self.begun = begun
        self.changed = changed
        self.waits = waits
        self.failure: Exception | None = None
        self._taking: asyncio.Task[int | None] | None = None

    async def run_until_end(self) -> None:
        """Serve until a signal, then answer what is in flight and return."""
        torch.set_num_threads(1)  # requests are computed side by side, each by one thread
        await self.serve(sockets=[])
        self.service.engine.desk.close()
        self.service.engine.sampler.close()

    async def begin(self) -> None:
        """Take connections, and load the generation meanwhile."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.signalled, number)
        self.begun(None if self.waits else await self._take())
        self.live.changed = self._from_thread(self._changed)
        self.live.begin(self._from_thread(self._failed))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is in flight."""
        self.live.drain()
        rpc = self.rpc.stop() if self.rpc else asyncio.sleep(0)
        await asyncio.gather(super().shutdown(sockets), rpc)
        self.live.close()
        if self.service.engine.shared is not None:
            self.service.engine.shared.close()
        self.service.engine.tracing.close()
        log.info("ended")

    def signalled(self, number: signal.Signals) -> None:
        """Drain, for a while after SIGTERM; at the second signal, end."""
        if self.live.draining:
            self._end()
            return
        self.live.drain()
        seconds = self.service.config.drain_seconds if number is signal.SIGTERM else 0.0
        log.info("%s: draining for %g seconds", number.name, seconds)
        asyncio.get_running_loop().call_later(seconds, self._end)

    async def _take(self) -> int | None:
        """Take connections from now on; the port of gRPC."""
        port = await self.rpc.start() if self.rpc else None
        self.take()
        return port

    def _changed(self) -> None:
        if self.waits and self.live.ready:
            self.waits = False
            self._taking = asyncio.get_running_loop().create_task(self._take())
            self._taking.add_done_callback(self._taken)
        self.changed()

    def _taken(self, task: asyncio.Task[int | None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._failed(error)

    def _end(self) -> None:
        self.should_exit = True

    def _failed(self, error: Exception) -> None:
        self.failure = error
        self.should_exit = True

    def _from_thread(self, function: Callable[..., None]) -> Callable[..., None]:
        """The function, called by the loop, whichever thread asks; not at all after the end."""
        loop = asyncio.get_running_loop()

        def call(*arguments: object) -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(function, *arguments)

        return call


def _rpc_server(service: Service, certificates: Certificates | None) -> RpcServer | None:
    if service.config.grpc_port is None:
        return None
    from prerank.service.open.rpc import RpcServer  # noqa: PLC0415  # of the packages of an extra

    return RpcServer(service.engine, service.token, certificates)
