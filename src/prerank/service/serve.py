"""prerank serve: in this process, or in several that this one supervises."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from prerank.service.accept import listening_at, reserved, url_of
from prerank.service.app import Service
from prerank.service.server import Server
from prerank.service.settings import ServiceConfig, address_of, read_token
from prerank.service.supervisor import Supervisor


def serve(directory: Path, config: ServiceConfig, listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is in flight and return.

    Args:
        directory: what ``prerank publish`` has written.
        config: the operator's settings.
        listening: told the address once connections are accepted; requests are welcome when /healthz/ready says so.

    Raises:
        ConfigError: the address is not free, or the token cannot be read.
        ArtefactError: nothing is published there, or it is damaged.
        ServiceError: a worker ends again and again before it is ready.
    """
    token = read_token(config)
    with ExitStack() as stack:
        listener = stack.enter_context(listening_at(config.host, config.port, "host"))
        address = url_of(listener, "http")

        def begun(rpc_port: int | None) -> None:
            listening(address)
            if rpc_port is not None:
                listening(f"grpc://{address_of(config.host, rpc_port)}")

        if config.workers == 1:
            asyncio.run(_alone(Service(directory, config, token), listener, begun))
            return
        if config.grpc_port is not None:
            port = stack.enter_context(reserved(config.host, config.grpc_port, "host"))
            config = config.model_copy(update={"grpc_port": port})
        asyncio.run(Supervisor(directory, config, token, listener, partial(begun, config.grpc_port)).run())


async def _alone(service: Service, listener: socket.socket, begun: Callable[[int | None], None]) -> None:
    server = Server(service, listener, begun=begun)
    await server.run_until_end()
    if server.failure is not None:
        raise server.failure
