"""An open-loop load generator: requests leave when they are due, whether or not earlier ones were answered.

A generator that waits for an answer before it sends the next request sends fewer while the service is slow, and so
measures least when there is most to measure (coordinated omission). Here a request that finds no free connection waits
for one, and its latency counts from when it was due.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import process_time
from typing import Any
from urllib.parse import urlsplit

import httptools
import numpy as np
from numpy.typing import NDArray

from prerank.bench.selector import PreciseSelector
from prerank.errors import ConfigError

Seconds = NDArray[np.float64]
LOST = 0  # as a status: the connection ended before the answer
PATIENCE = 30.0  # seconds after the last request was due until missing answers are given up
MOST = 900  # connections


@dataclass(frozen=True)
class Outcome:
    """What became of N requests, in the order in which they were due; times in seconds since the beginning.

    Attributes:
        due: (N,) when they should leave.
        sent: (N,) when they left; NaN if they never did.
        ended: (N,) when the last byte of the answer was there, or the connection was lost; NaN if neither came.
        status: (N,) of the answer; ``LOST``.
        seconds: of the whole.
        cpu: processor seconds of the generator.
    """

    due: Seconds
    sent: Seconds
    ended: Seconds
    status: NDArray[np.int64]
    seconds: float
    cpu: float


def constant(rate: float, seconds: float) -> Seconds:
    """Due times at equal distances."""
    return np.arange(round(rate * seconds)) / rate


def poisson(rate: float, seconds: float, seed: int) -> Seconds:
    """Due times of clients who know nothing of each other."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0, seconds, size=rng.poisson(rate * seconds)))


def open_loop(url: str, requests: Sequence[bytes], due: Seconds, connections: int) -> Outcome:
    """Send requests when they are due.

    Args:
        url: of the service; only host and port are read.
        requests: whole HTTP requests, taken one after the other, and again from the first.
        due: (N,) seconds from the beginning, in order.
        connections: how many requests can be in flight.

    Raises:
        ConfigError: the service cannot be reached, or there would be too many connections.
    """
    return _run(url, requests, connections, due, None)


def closed_loop(url: str, requests: Sequence[bytes], seconds: float, connections: int) -> Outcome:
    """Send a request on each connection as soon as the one before it was answered: what a service can do at most.

    A request is due when its connection is free. Arguments and errors as in ``open_loop``.
    """
    return _run(url, requests, connections, np.zeros(0), seconds)


def summary(outcome: Outcome) -> dict[str, Any]:
    """Counts, answers a second, and quantiles of milliseconds from when requests were due."""
    good = outcome.status == 200
    refused = np.isfinite(outcome.ended) & ~good & (outcome.status != LOST)
    taken = 1000 * (outcome.ended - outcome.due)
    late = 1000 * (outcome.sent - outcome.due)
    statuses = Counter(outcome.status[np.isfinite(outcome.ended)].tolist())
    content: dict[str, Any] = {
        "requests": len(outcome.due),
        "statuses": {str(status): count for status, count in sorted(statuses.items()) if status != LOST},
        "lost": statuses.get(LOST, 0),
        "unanswered": int((~np.isfinite(outcome.ended)).sum()),
        "answers_per_second": round(float(good.sum()) / outcome.seconds, 1),
        "latency_ms": quantiles(taken[good]),
        "sent_late_ms": quantiles(late[np.isfinite(late)]),
        "generator_cpu_share": round(outcome.cpu / outcome.seconds, 3),
    }
    if refused.any():
        content["refusal_ms"] = quantiles(1000 * (outcome.ended - outcome.sent)[refused])
    return content


def quantiles(milliseconds: Seconds) -> dict[str, float]:
    """p50 to p99.9 and the largest; nothing of nothing."""
    if not len(milliseconds):
        return {}
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: round(float(np.quantile(milliseconds, share)), 3) for name, share in shares.items()}


def _run(url: str, requests: Sequence[bytes], connections: int, due: Seconds, seconds: float | None) -> Outcome:
    if not 1 <= connections <= MOST:
        raise ConfigError(f"connections: {connections} is not between 1 and {MOST}")
    loop = asyncio.SelectorEventLoop(PreciseSelector())
    gc.collect()
    gc.disable()
    try:
        return loop.run_until_complete(_Generator(url, requests, due, seconds).run(connections))
    finally:
        gc.enable()
        loop.close()


class _Generator:
    def __init__(self, url: str, requests: Sequence[bytes], due: Seconds, seconds: float | None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(f"--url {url}: expected http://HOST:PORT")
        self.url, self.host, self.port = url, parts.hostname, parts.port or 80
        self.requests = requests
        self.times: list[float] = due.tolist()
        self.closed = seconds
        self.sent: dict[int, float] = {}
        self.ended: dict[int, tuple[float, int]] = {}
        self.due = 0  # how many requests were due so far
        self.waiting: deque[int] = deque()
        self.lines: set[_Line] = set()
        self.idle: deque[_Line] = deque()
        self.timer: asyncio.TimerHandle | None = None

    async def run(self, connections: int) -> Outcome:
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self.tasks: set[asyncio.Task[None]] = set()
        await asyncio.gather(*(self._connect() for _ in range(connections)))
        begun = process_time()
        self.start = self.loop.time() + 0.01
        self.loop.call_at(self.start, self._begin)
        try:
            await self.done
        finally:
            await self._close()
        seconds, cpu = self.loop.time() - self.start, process_time() - begun
        count = len(self.times)
        never = (float("nan"), LOST)
        ends = np.array([self.ended.get(number, never) for number in range(count)]).reshape(count, 2)
        sent = np.array([self.sent.get(number, float("nan")) for number in range(count)])
        return Outcome(np.array(self.times), sent, ends[:, 0], ends[:, 1].astype(np.int64), seconds, cpu)

    async def _close(self) -> None:
        for task in self.tasks:
            task.cancel()
        for line in self.lines:
            line.number = None
            line.transport.abort()
        await asyncio.sleep(0)  # the loop closes them in its next round

    async def _connect(self) -> None:
        try:
            _, line = await self.loop.create_connection(lambda: _Line(self), self.host, self.port)
        except OSError as error:
            raise ConfigError(f"{self.url}: {error.strerror or error}") from None
        self.lines.add(line)
        self.idle.append(line)

    def _begin(self) -> None:
        if self.closed is not None:
            self.loop.call_later(self.closed + PATIENCE, self._finish)
            for line in list(self.idle):
                self._next(line)
            return
        last = self.times[-1] if self.times else 0.0
        self.loop.call_at(self.start + last + PATIENCE, self._finish)
        self._pump()

    def _pump(self) -> None:
        """Send what is due, and wake up for the next one."""
        now = self.loop.time() - self.start
        while self.due < len(self.times) and self.times[self.due] <= now:
            self.waiting.append(self.due)
            self.due += 1
        while self.waiting and self.idle:
            self._send(self.idle.popleft(), self.waiting.popleft())
        if self.due < len(self.times):
            self.timer = self.loop.call_at(self.start + self.times[self.due], self._pump)
        elif len(self.ended) == len(self.times):
            self._finish()

    def _send(self, line: _Line, number: int) -> None:
        line.number = number
        self.sent[number] = self.loop.time() - self.start
        line.transport.write(self.requests[number % len(self.requests)])

    def _next(self, line: _Line) -> None:
        """Of a closed loop: the next request, or the end."""
        now = self.loop.time() - self.start
        if self.closed is not None and now < self.closed:
            self.times.append(now)
            self._send(line, len(self.times) - 1)
        elif len(self.ended) == len(self.times):
            self._finish()

    def answered(self, line: _Line, number: int, status: int) -> None:
        """An answer is complete, or will never be."""
        self.ended[number] = (self.loop.time() - self.start, status)
        if line.transport.is_closing():
            self.renew()
        else:
            self._free(line)

    def _free(self, line: _Line) -> None:
        if self.closed is not None:
            self._next(line)
        elif self.waiting:
            self._send(line, self.waiting.popleft())
        else:
            self.idle.append(line)
            if len(self.ended) == len(self.times):
                self._finish()

    def renew(self) -> None:
        """Replace a connection that has ended."""
        if not self.done.done():
            task = self.loop.create_task(self._again())
            self.tasks.add(task)
            task.add_done_callback(self._renewed)

    async def _again(self) -> None:
        await self._connect()
        self._free(self.idle.pop())

    def _renewed(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.done.done():
            self.done.set_exception(error)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class _Line(asyncio.Protocol):
    """One connection, with one request at a time on it."""

    transport: asyncio.Transport

    def __init__(self, generator: _Generator) -> None:
        self.generator = generator
        self.number: int | None = None
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        number, self.number = self.number, None
        if not self.parser.should_keep_alive():
            self.transport.close()
        if number is not None:
            self.generator.answered(self, number, self.parser.get_status_code())

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.generator.lines.discard(self)
        number, self.number = self.number, None
        if number is not None:
            self.generator.answered(self, number, LOST)
        elif self in self.generator.idle:
            self.generator.idle.remove(self)
            self.generator.renew()
