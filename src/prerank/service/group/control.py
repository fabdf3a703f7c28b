"""What a supervisor and its workers tell each other: a JSON object a line, over a socket of their own."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, TypeVar

import msgspec

from prerank.service.group.members import Worker

T = TypeVar("T")
LONGEST = 1 << 20  # of a line, in bytes


class Hello(msgspec.Struct, frozen=True):
    """What a worker begins with.

    Attributes:
        directory: what is published.
        config: the operator's settings.
        token: the bearer token, if there is one.
        number: of the worker.
        counts: a directory for what is counted.
        fallback: the generation to begin with if the current one is refused.
        waits: it takes no connection before it is ready: others answer meanwhile.
    """

    directory: str
    config: dict[str, Any]
    token: bytes | None
    number: int
    counts: str
    fallback: str | None
    waits: bool


class News(msgspec.Struct, frozen=True):
    """What the supervisor tells its workers.

    Attributes:
        workers: how each of them is.
        complete: whether all of them have been ready, so that the service has begun.
        look: a generation is to be looked for now.
    """

    workers: list[Worker]
    complete: bool
    look: bool = False


class Report(msgspec.Struct, frozen=True):
    """What a worker tells.

    Attributes:
        state: how it is.
        failure: why there is nothing to begin with.
    """

    state: Worker
    failure: str | None = None


class Channel:
    """One end of the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        """Over a connected socket, which it closes at the end."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LONGEST))

    def send(self, message: msgspec.Struct) -> None:
        """Send; to nobody, if the other end is gone."""
        if not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(message) + b"\n")

    async def receive(self, kind: type[T]) -> T | None:
        """The next message, or None if the other end is gone."""
        try:
            line = await self._reader.readline()
        except OSError:
            return None
        return msgspec.json.decode(line, type=kind) if line.endswith(b"\n") else None

    async def close(self) -> None:
        """Send what is left, and close."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return
