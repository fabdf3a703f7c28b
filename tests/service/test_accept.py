"""Workers share connections evenly, and none is lost when one of them ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from prerank.errors import ConfigError
from prerank.service.http.accept import CLOSED, Acceptor, Board, listening_at, reserved, url_of


class Answers(asyncio.Protocol):
    """Says whose connection it is."""

    def __init__(self, name: bytes) -> None:
        self.name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.name)
        transport.close()


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.new(3)
    yield board
    board.close()


async def connect(listener: socket.socket, count: int) -> list[bytes]:
    """Open so many connections at once: whose each of them is."""
    port = listener.getsockname()[1]
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    names = [await reader.read() for reader, _ in opened]
    for _, writer in opened:
        writer.close()
        await writer.wait_closed()
    return names


def test_a_board_knows_who_takes_connections(board: Board) -> None:
    assert board.fewest() == 0
    board[0] = 7
    assert board.fewest() == 7
    board[2] = 5
    assert board.fewest() == 5
    board[2] = CLOSED
    assert board.fewest() == 7


def test_few_connections_are_shared_evenly(board: Board) -> None:
    async def take() -> list[bytes]:
        with listening_at("127.0.0.1", 0, "host") as listener:
            acceptors = [
                Acceptor(listener.dup(), lambda name=name: Answers(name), None, 1, board, number)  # type: ignore[misc]
                for number, name in enumerate((b"a", b"b"))
            ]
            for acceptor in acceptors:
                acceptor.start()
            names = await connect(listener, 8)  # nobody says that one is closed
            for acceptor in acceptors:
                await acceptor.stop()
            return names

    names = asyncio.run(take())
    assert sorted(names) == [b"a"] * 4 + [b"b"] * 4


def test_who_takes_none_is_not_waited_for_long(board: Board) -> None:
    """A worker that hangs has the fewest connections; the others take them all the same."""
    board[1] = 0

    async def take() -> list[bytes]:
        with listening_at("127.0.0.1", 0, "host") as listener:
            acceptor = Acceptor(listener.dup(), lambda: Answers(b"a"), None, 1, board, 0)
            acceptor.start()
            names = await connect(listener, 4)
            await acceptor.stop()
            return names

    assert asyncio.run(take()) == [b"a"] * 4


@pytest.mark.parametrize("started", [True, False])
def test_what_waits_at_the_end_is_taken(started: bool) -> None:
    """But not by who had not started, because others do."""

    async def end() -> list[bytes]:
        with listening_at("127.0.0.1", 0, "host") as listener:
            waiting = [socket.create_connection(listener.getsockname()) for _ in range(5)]
            acceptor = Acceptor(listener.dup(), lambda: Answers(b"a"), None, 1)
            if started:
                acceptor.start()
            await acceptor.stop()
            await asyncio.sleep(0.01)
        answers = []
        for one in waiting:
            try:
                answers.append(one.recv(10))
            except ConnectionResetError:
                answers.append(b"reset")
            one.close()
        return answers

    assert asyncio.run(end()) == [b"a" if started else b"reset"] * 5


def test_addresses() -> None:
    with listening_at("localhost", 0, "host") as listener:
        assert url_of(listener, "http").startswith("http://127.0.0.1:")
    with listening_at("::1", 0, "host") as listener:
        assert url_of(listener, "https").startswith("https://[::1]:")
    with (
        pytest.raises(ConfigError, match=r"^host no\.such\.host\.invalid: "),
        listening_at("no.such.host.invalid", 0, "host"),
    ):
        pass


def test_a_reserved_port_is_shared_only_by_those_who_know() -> None:
    with reserved("127.0.0.1", 0, "host") as port:
        sockets = [socket.socket() for _ in range(2)]
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(("127.0.0.1", port))
            one.listen()
            one.close()
        message = f"cannot listen at 127.0.0.1, port {port}: Address already in use"
        for way in (listening_at, reserved):
            with pytest.raises(ConfigError, match=message), way("127.0.0.1", port, "host"):
                pass
