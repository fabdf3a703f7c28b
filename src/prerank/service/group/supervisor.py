"""Starts the workers, replaces those that end, tells each how all are, and ends them together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from msgspec.structs import replace

from prerank.errors import ConfigError, ServiceError
from prerank.service.group.control import Channel, Hello, News, Report
from prerank.service.group.members import Worker
from prerank.service.http.accept import CLOSED, Board
from prerank.service.settings import ServiceConfig

TRIES = 5  # how often a worker may end before it was ready, while no other one is
FIRST, LONGEST = 0.1, 30.0  # seconds until a worker is replaced: twice as many each time, if it did not live long
LONG = 30.0  # seconds
MARGIN = 5.0  # seconds beyond draining and grace, until a worker that has not ended is killed
MEMORY = Path("/dev/shm")  # files that are no disk's

log = logging.getLogger(__name__)


class _End(NamedTuple):
    """Of a worker.

    Attributes:
        was_ready: whether it has answered before.
        told: why it could not begin, in its own words.
        reason: the same, or how its process has ended.
    """

    was_ready: bool
    told: str | None
    reason: str


class Started(NamedTuple):
    """A process, and the way to talk to it."""

    process: Process
    channel: Channel


class Supervisor:
    """Of a service with several workers. It answers no request itself, and maps no store.

    While all of them answer, one more process waits to be a worker, with all packages imported: whoever ends is
    replaced without the seconds that this takes.
    """

    def __init__(
        self,
        directory: Path,
        config: ServiceConfig,
        token: bytes | None,
        listener: socket.socket,
        begun: Callable[[], None],
    ) -> None:
        """Start nothing yet.

        Args:
            directory: what is published.
            config: the operator's settings.
            token: the bearer token, if there is one.
            listener: listens, for all workers.
            begun: called once the first of them takes connections.
        """
        self.directory = directory
        self.config = config
        self.token = token
        self.listener = listener
        self.begun = begun
        self.complete = False
        self.ending = False
        self._announced = False
        self._failure: ServiceError | None = None
        self._states = [Worker(number) for number in range(config.workers)]
        self._running: dict[int, Started] = {}
        self._ended = asyncio.Event()
        self._spare: asyncio.Task[Started] | None = None

    async def run(self) -> None:
        """Until a signal, or until a worker cannot begin.

        Raises:
            ServiceError: it cannot.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        with _shared_directory() as counts, contextlib.closing(Board.new(self.config.workers)) as board:
            keepers = [loop.create_task(self._keep(number, counts, board)) for number in range(self.config.workers)]
            ended = loop.create_task(self._ended.wait())
            await asyncio.wait([ended, *keepers], return_when=asyncio.FIRST_COMPLETED)
            await self._all_gone(keepers)
            await self._drop_spare()
        log.info("all workers have ended")
        if self._failure is not None:
            raise self._failure

    @property
    def ready(self) -> bool:
        """Whether requests are welcome: all workers have been ready, and one of them is."""
        return self.complete and not self.ending and any(state.state == "ready" for state in self._states)

    def workers(self) -> list[Worker]:
        """How each of them is."""
        return list(self._states)

    @property
    def look_now(self) -> Callable[[], None]:
        """Has every worker look for a new generation, also at one that it has refused."""
        return partial(self._tell, look=True)

    async def _keep(self, number: int, counts: Path, board: Board) -> None:
        """Have a worker running, time and again."""
        failures, pause = 0, FIRST
        while not self.ending:
            begun = monotonic()
            end = await self._one(number, counts, board)
            if self.ending:
                break
            failures = 0 if end.was_ready else failures + 1
            self._check(number, failures, end)
            pause = FIRST if end.was_ready and monotonic() - begun > LONG else min(LONGEST, 2 * pause)
            log.error("worker %d has ended (%s); another one follows in %g seconds", number, end.reason, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), pause)

    async def _one(self, number: int, counts: Path, board: Board) -> _End:
        """Run a worker until its end."""
        process, channel = await self._spare_or_new(board)
        self._running[number] = Started(process, channel)
        if self.ending:  # meanwhile
            process.terminate()
        channel.send(self._hello(number, counts))
        was_ready, told = False, None
        while (report := await channel.receive(Report)) is not None:
            told = report.failure
            was_ready = was_ready or report.state.state == "ready"
            self._update(report.state)
            if self._spare is None and not self.ending and all(state.state == "ready" for state in self._states):
                self._spare = asyncio.get_running_loop().create_task(self._start(board))
        code = await process.wait()
        del self._running[number]
        await channel.close()
        board[number] = CLOSED
        before = self._states[number]
        self._states[number] = Worker(number, restarts=before.restarts + 1, refused=before.refused)
        self._tell()
        return _End(was_ready, told, told or (f"signal {-code}" if code < 0 else f"exit code {code}"))

    def _hello(self, number: int, counts: Path) -> Hello:
        config = self.config.model_dump(mode="json")
        serving = [state.generation for state in self._states if state.state == "ready" and state.generation]
        fallback = serving[0] if serving else None
        return Hello(str(self.directory), config, self.token, number, str(counts), fallback, waits=self.complete)

    async def _spare_or_new(self, board: Board) -> Started:
        spare, self._spare = self._spare, None
        if spare is not None:
            started = await spare
            if started.process.returncode is None:
                return started
            await started.channel.close()
        return await self._start(board)

    async def _drop_spare(self) -> None:
        if self._spare is not None:
            process, channel = await self._spare
            await channel.close()
            await process.wait()

    async def _start(self, board: Board) -> Started:
        """A process that waits for its greeting."""
        ours, control = socket.socketpair()
        with control:
            process = await self._execute([self.listener.fileno(), control.fileno(), board.descriptor])
        return Started(process, await Channel.over(ours))

    async def _execute(self, inherited: list[int]) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # what lies in the working directory is not the program's
            "-m",
            "prerank.service.group.worker",
            *map(str, inherited),
            pass_fds=inherited,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # signals come from here alone
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def _update(self, state: Worker) -> None:
        if not self._announced:
            self._announced = True
            self.begun()
        self._states[state.worker] = replace(state, restarts=self._states[state.worker].restarts)
        if not self.complete and all(one.state == "ready" for one in self._states):
            self.complete = True
            log.info("all %d workers are ready", len(self._states))
        self._tell()

    def _tell(self, look: bool = False) -> None:
        for _, channel in self._running.values():
            channel.send(News(self._states, self.complete, look))

    def _check(self, number: int, failures: int, end: _End) -> None:
        """End the service if it cannot begin, or if none of its workers can any more.

        A worker that fails while others serve is tried again.
        """
        if not self.complete and end.told and not end.was_ready:
            self._fail(end.told)
        elif failures >= TRIES and not any(state.state == "ready" for state in self._states):
            self._fail(f"worker {number} has ended {failures} times before it was ready: {end.reason}")

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or ServiceError(reason)
        self._end(signal.SIGINT)

    def _signalled(self, number: signal.Signals) -> None:
        log.info("%s: all workers drain", number.name)
        self._end(number)

    def _end(self, number: signal.Signals) -> None:
        self.ending = True
        self.listener.close()
        if self._spare is not None:
            self._spare.add_done_callback(_kill)  # now: it holds the listener open, too
        for process, _ in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
        self._ended.set()

    async def _all_gone(self, keepers: list[asyncio.Task[None]]) -> None:
        """Wait for the workers; those that take too long are killed."""
        _, late = await asyncio.wait(keepers, timeout=self.config.drain_seconds + self.config.grace_seconds + MARGIN)
        if late:
            log.error("%d workers have not ended in time and are killed", len(late))
            for process, _ in self._running.values():
                process.kill()
        await asyncio.gather(*keepers)


def _kill(spare: asyncio.Task[Started]) -> None:
    if not spare.cancelled() and spare.exception() is None:
        with contextlib.suppress(ProcessLookupError):
            spare.result().process.kill()


@contextlib.contextmanager
def _shared_directory() -> Iterator[Path]:
    """A directory for what workers count, in memory where there is such a place: a full disk would end them.

    Raises:
        ConfigError: nothing can be written anywhere.
    """
    place = MEMORY if os.access(MEMORY, os.W_OK) else None
    try:
        directory = tempfile.TemporaryDirectory(prefix="prerank-", dir=place)
    except OSError as error:
        raise ConfigError(f"workers: no place for temporary files (TMPDIR): {error.strerror}") from None
    with directory:
        yield Path(directory.name)
