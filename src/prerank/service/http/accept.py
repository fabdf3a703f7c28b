"""Taking connections from a socket that all workers share, each its part.

One socket means one queue: what a worker that died had not taken is taken by the others, while each socket of
SO_REUSEPORT would take its queue along. Left alone, though, whoever wakes first takes what there is, and a few
connections that are kept open for long may all be one worker's (so they may with SO_REUSEPORT, which draws lots). A
worker therefore leaves a connection for a while to those that have fewer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import socket
import struct
from collections.abc import Callable, Iterator

from prerank.errors import ConfigError
from prerank.service.settings import address_of
from prerank.service.tls import Certificates

BACKLOG = 2048
LEAVE = 0.004  # seconds that a connection is left to others; they may just be busy
PAUSE = 0.5  # seconds without a new connection when there are no file handles left
COUNT = struct.Struct("i")
CLOSED = -1

log = logging.getLogger(__name__)


class Board:
    """How many connections each worker has, in memory that all of them share; ``CLOSED`` if it takes none."""

    def __init__(self, descriptor: int, workers: int) -> None:
        self.descriptor = descriptor
        self._workers = workers
        self._memory = mmap.mmap(descriptor, workers * COUNT.size)

    @classmethod
    def new(cls, workers: int) -> Board:
        """One on which no worker takes any."""
        descriptor = os.memfd_create("prerank-connections")
        os.ftruncate(descriptor, workers * COUNT.size)
        board = cls(descriptor, workers)
        for worker in range(workers):
            board[worker] = CLOSED
        return board

    def __setitem__(self, worker: int, count: int) -> None:
        place = worker * COUNT.size
        self._memory[place : place + COUNT.size] = COUNT.pack(count)

    def fewest(self) -> int:
        """Of those that take connections, what the one with the fewest has."""
        counts = [count for (count,) in COUNT.iter_unpack(self._memory[: self._workers * COUNT.size])]
        return min((count for count in counts if count != CLOSED), default=0)

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()
        os.close(self.descriptor)


class Acceptor:
    """Takes connections, and hands each to a protocol."""

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        certificates: Certificates | None,
        handshake_seconds: float,
        board: Board | None = None,
        worker: int = 0,
    ) -> None:
        """Take none yet.

        Args:
            listener: listens; not blocking.
            protocol: makes one for a connection.
            certificates: for TLS.
            handshake_seconds: that a client may take for it.
            board: of all workers that share the listener; None if nobody does.
            worker: the number of this one on it.
        """
        self.listener = listener
        self.protocol = protocol
        self.certificates = certificates
        self.handshake_seconds = handshake_seconds if certificates else None
        self.board = board
        self.worker = worker
        self.open = 0
        self._loop = asyncio.get_running_loop()
        self._taking = False
        self._later: asyncio.TimerHandle | None = None
        self._greeting: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Take connections from now on."""
        self._taking = True
        self._tell()
        self._loop.add_reader(self.listener, self._ready)

    async def stop(self) -> None:
        """Take those that wait, and no more; none if this has not started."""
        was_taking, self._taking = self._taking, False
        self._rest(None)
        while was_taking and self._take():
            pass
        self._tell()
        self.listener.close()
        if self._greeting:
            await asyncio.wait(self._greeting)

    def closed(self) -> None:
        """A connection has ended."""
        self.open -= 1
        self._tell()

    def _ready(self) -> None:
        """A connection waits: take it, unless others have fewer."""
        if self.board is not None and self.open > self.board.fewest():
            self._rest(LEAVE)
        else:
            self._take()

    def _rest(self, seconds: float | None) -> None:
        self._loop.remove_reader(self.listener)
        if self._later is not None:
            self._later.cancel()
        self._later = None if seconds is None else self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        """Take one that others have not taken."""
        self._later = None
        self._take()
        if self._later is None:
            self._loop.add_reader(self.listener, self._ready)

    def _take(self) -> bool:
        """Take a connection; whether there was one. One at a time, so that others get theirs."""
        try:
            connection, _ = self.listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            log.error("no connection can be taken: %s", error.strerror)
            if self._taking:
                self._rest(PAUSE)
            return False
        connection.setblocking(False)
        self.open += 1
        self._tell()
        task = self._loop.create_task(self._greet(connection))
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)
        return True

    async def _greet(self, connection: socket.socket) -> None:
        context = self.certificates.current().context if self.certificates else None
        try:
            await self._loop.connect_accepted_socket(
                self.protocol, connection, ssl=context, ssl_handshake_timeout=self.handshake_seconds
            )
        except (OSError, TimeoutError):  # no TLS, no certificate, or gone
            self.closed()

    def _tell(self) -> None:
        if self.board is not None:
            self.board[self.worker] = self.open if self._taking else CLOSED


@contextlib.contextmanager
def listening_at(host: str, port: int, place: str) -> Iterator[socket.socket]:
    """A socket that listens, and does not block.

    Args:
        host: name or address.
        port: 0 for any free one.
        place: what messages call the setting.

    Raises:
        ConfigError: there can be none.
    """
    with _bound(host, port, place) as listener:
        listener.listen(BACKLOG)
        listener.setblocking(False)
        yield listener


@contextlib.contextmanager
def reserved(host: str, port: int, place: str) -> Iterator[int]:
    """A port at which several processes may listen, each with a socket of its own; arguments as of ``listening_at``."""
    with _bound(host, port, place) as alone:  # or it would be shared with another service
        port = alone.getsockname()[1]
    with _bound(host, port, place, socket.SO_REUSEPORT):
        yield port


def url_of(listener: socket.socket, scheme: str) -> str:
    """Where a socket listens."""
    return f"{scheme}://{address_of(*listener.getsockname()[:2])}"


def _bound(host: str, port: int, place: str, option: int = socket.SO_REUSEADDR) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)  # without protocol asyncio leaves Nagle's delay on: 40 ms
    except OSError as error:
        raise ConfigError(f"{place} {host}: {error.strerror}") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen at {host}, port {port}: {error.strerror}") from None
    return bound
