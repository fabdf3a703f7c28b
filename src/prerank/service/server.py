"""From start to the last response: listening, signals, draining."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import uvicorn

from prerank.errors import ConfigError
from prerank.service.app import Service
from prerank.service.connection import connection_class
from prerank.service.settings import ServiceConfig, address_of, read_token

if TYPE_CHECKING:
    from prerank.service.rpc import RpcServer

log = logging.getLogger(__name__)


def serve(directory: Path, config: ServiceConfig, listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is in flight and return.

    Args:
        directory: what ``prerank publish`` has written.
        config: the operator's settings.
        listening: told the address once connections are accepted; requests are welcome when /healthz/ready says so.

    Raises:
        ConfigError: the address is not free, or the token cannot be read.
        ArtefactError: nothing is published there, or it is damaged.
    """
    service = Service(directory, config, read_token(config))
    torch.set_num_threads(1)  # requests are computed side by side, each by one thread
    with _listener(config) as listener:
        server = _Server(service, listening)
        asyncio.run(server.serve(sockets=[listener]))
    service.engine.desk.close()
    if server.failure is not None:
        raise server.failure


class _Server(uvicorn.Server):
    """uvicorn's server with a generation to load at the start and a drain before the end."""

    def __init__(self, service: Service, listening: Callable[[str], None]) -> None:
        config = service.config
        super().__init__(
            uvicorn.Config(
                service.application,
                http=connection_class(config),
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
        self.service = service
        self.rpc = _rpc_server(service)
        self.listening = listening
        self.failure: Exception | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and load the generation meanwhile."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        rpc_port = await self.rpc.start() if self.rpc else None
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        self.listening(f"http://{address_of(host, port)}")
        if rpc_port is not None:
            self.listening(f"grpc://{address_of(host, rpc_port)}")

        def failed(error: Exception) -> None:
            loop.call_soon_threadsafe(self._failed, error)

        self.service.engine.live.begin(failed)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is in flight."""
        self.service.engine.live.drain()
        rpc = self.rpc.stop() if self.rpc else asyncio.sleep(0)
        await asyncio.gather(super().shutdown(sockets), rpc)
        self.service.engine.live.close()
        log.info("ended")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: ``startup`` has them, because an orderly end is exit code 0."""
        yield

    def _signalled(self, number: signal.Signals) -> None:
        if self.service.engine.live.draining:
            self.should_exit = True
            return
        self.service.engine.live.drain()
        seconds = self.service.config.drain_seconds if number is signal.SIGTERM else 0.0
        log.info("%s: draining for %g seconds", number.name, seconds)
        asyncio.get_running_loop().call_later(seconds, self._end)

    def _end(self) -> None:
        self.should_exit = True

    def _failed(self, error: Exception) -> None:
        self.failure = error
        self.should_exit = True


def _rpc_server(service: Service) -> RpcServer | None:
    if service.config.grpc_port is None:
        return None
    from prerank.service.rpc import RpcServer  # noqa: PLC0415  # of the packages of an extra

    return RpcServer(service.engine, service.token)


@contextlib.contextmanager
def _listener(config: ServiceConfig) -> Iterator[socket.socket]:
    """A socket at the configured address.

    Raises:
        ConfigError: there can be none.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)  # without protocol asyncio leaves Nagle's delay on: 40 ms
    except OSError as error:
        raise ConfigError(f"host {config.host}: {error.strerror}") from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise ConfigError(f"cannot listen at {config.host}, port {config.port}: {error.strerror}") from None
        yield listener
