"""prerank serve: in this process, or in several that this one supervises."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import partial
from pathlib import Path

import uvloop

from prerank.service.admin import Administered, administered
from prerank.service.group.members import Alone
from prerank.service.group.supervisor import Supervisor
from prerank.service.http.accept import listening_at, reserved, url_of
from prerank.service.http.app import Service
from prerank.service.sampling import check_place
from prerank.service.server import Server
from prerank.service.settings import ServiceConfig, address_of, read_admin_token, read_token
from prerank.service.tls import Certificates, certificates


def serve(directory: Path, config: ServiceConfig, listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is in flight and return.

    Args:
        directory: what ``prerank publish`` has written.
        config: the operator's settings.
        listening: told the address once connections are accepted; requests are welcome when /healthz/ready says so.

    Raises:
        ConfigError: the address is not free, the token cannot be read, or the sample's directory not be written to.
        ArtefactError: nothing is published there, or it is damaged.
        ServiceError: a worker ends again and again before it is ready.
    """
    token = read_token(config)
    admin_token, tls = read_admin_token(config, token), certificates(config.tls)
    check_place(config)
    with ExitStack() as stack:
        listener = stack.enter_context(listening_at(config.host, config.port, "host"))
        admin: socket.socket | None = None
        if config.admin.port is not None:
            admin = stack.enter_context(listening_at(config.admin.host, config.admin.port, "admin.host"))
        scheme = "https" if tls else "http"
        address = url_of(listener, scheme)

        def begun(rpc_port: int | None) -> None:
            listening(address)
            if rpc_port is not None:
                listening(f"{'grpcs' if tls else 'grpc'}://{address_of(config.host, rpc_port)}")
            if admin is not None:
                listening(f"{url_of(admin, scheme)} for operators")

        def with_admin(group: Administered) -> AbstractAsyncContextManager[None]:
            return administered(directory, config, admin_token, admin, tls, group)

        if config.workers == 1:
            uvloop.run(_alone(Service(directory, config, token), listener, tls, begun, with_admin))
            return
        if config.grpc_port is not None:
            port = stack.enter_context(reserved(config.host, config.grpc_port, "host"))
            config = config.model_copy(update={"grpc_port": port})
        supervisor = Supervisor(directory, config, token, listener, partial(begun, config.grpc_port))
        asyncio.run(_supervised(supervisor, with_admin))


WithAdmin = Callable[[Administered], AbstractAsyncContextManager[None]]


async def _alone(
    service: Service,
    listener: socket.socket,
    tls: Certificates | None,
    begun: Callable[[int | None], None],
    with_admin: WithAdmin,
) -> None:
    server = Server(service, listener, tls, begun=begun)
    async with with_admin(Alone(server.live.state, server.live.look_now)):
        await server.run_until_end()
    if server.failure is not None:
        raise server.failure


async def _supervised(supervisor: Supervisor, with_admin: WithAdmin) -> None:
    async with with_admin(supervisor):
        await supervisor.run()
