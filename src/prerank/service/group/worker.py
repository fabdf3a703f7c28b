"""One of several processes that answer; its supervisor starts it with sockets to inherit.

Run by the supervisor: python -m prerank.service.group.worker LISTENER CONTROL BOARD
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path

import msgspec
import uvloop

from prerank.errors import PrerankError
from prerank.service.group.control import Channel, Hello, News, Report
from prerank.service.group.members import Worker
from prerank.service.http.accept import Board
from prerank.service.http.app import Service
from prerank.service.logs import log_to_stderr
from prerank.service.metrics import count_together
from prerank.service.server import Server
from prerank.service.settings import ServiceConfig
from prerank.service.tls import certificates

log = logging.getLogger(__name__)

FAILED = 2
"""Exit code of a worker that has told why it cannot begin."""


class Told:
    """All workers, as the supervisor has told, and this one, as it is."""

    def __init__(self, number: int, service: Service) -> None:
        self.number = number
        self.live = service.engine.live
        self.news = News([], complete=False)

    @property
    def ready(self) -> bool:
        """Whether requests are welcome: here, and once all workers have been ready."""
        return self.live.ready and self.news.complete

    def own(self) -> Worker:
        """How this worker is."""
        return msgspec.structs.replace(self.live.state(), worker=self.number)

    def workers(self) -> list[Worker]:
        """How each of them is."""
        own = self.own()
        return [
            msgspec.structs.replace(own, restarts=one.restarts) if one.worker == self.number else one
            for one in self.news.workers
        ]


async def work(listener: socket.socket, control: socket.socket, board: int) -> int:
    """Serve until a signal, or the end of the supervisor; the exit code."""
    channel = await Channel.over(control)
    hello = await channel.receive(Hello)
    if hello is None:  # a spare one that was not needed
        listener.close()
        await channel.close()
        return 0
    config = ServiceConfig.model_validate(hello.config)
    count_together(Path(hello.counts), hello.number)
    service = Service(Path(hello.directory), config, hello.token, hello.fallback)
    told = Told(hello.number, service)
    service.engine.group = told
    server = Server(
        service,
        listener,
        certificates(config.tls),
        begun=lambda _: channel.send(Report(told.own())),
        changed=lambda: channel.send(Report(told.own())),
        waits=hello.waits,
        board=Board(board, config.workers),
        number=hello.number,
    )
    listening = asyncio.create_task(_listen(channel, told, server))
    try:
        await server.run_until_end()
    except PrerankError as error:  # an address that is taken
        server.failure = error
    listening.cancel()
    if server.failure is not None:
        channel.send(Report(told.own(), _reason(server.failure)))
    await channel.close()
    return FAILED if server.failure is not None else 0


async def _listen(channel: Channel, told: Told, server: Server) -> None:
    while (news := await channel.receive(News)) is not None:
        told.news = news
        if news.look:
            told.live.look_now()
    server.signalled(signal.SIGINT)  # nobody would restart this one, or tell it to end


def _reason(error: Exception) -> str:
    if isinstance(error, PrerankError):
        return str(error)
    log.error("fault while loading", exc_info=error)
    return f"{type(error).__name__}: {error}"


def main() -> None:
    """Entry point."""
    listener, control, board = (int(descriptor) for descriptor in sys.argv[1:4])
    log_to_stderr()
    with contextlib.suppress(ImportError):  # plans do without it
        import_module("prerank.publish.plan.kernels")  # now, as this process may be a spare one
    sys.exit(uvloop.run(work(socket.socket(fileno=listener), socket.socket(fileno=control), board)))


if __name__ == "__main__":
    main()
