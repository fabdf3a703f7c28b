"""The bounded queue before the threads that score: what cannot be answered in time is refused at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from http import HTTPStatus
from time import perf_counter
from typing import TypeVar

from starlette.requests import ClientDisconnect

from prerank.service.metrics import Metrics
from prerank.service.presence import Presence
from prerank.service.refusal import RefusedError, TooLateError, busy, later
from prerank.service.threads import Threads
from prerank.service.tracing import Tracing

T = TypeVar("T")
MEMORY = 0.1  # how much of the estimate the latest job is


class Desk:
    """Takes jobs in while there is room and time.

    A job is one or several requests (a batch), and takes as many places. The time that a request takes is estimated
    from the latest ones; it only ever decides about jobs that would have to wait, so that an estimate that has grown
    too long is corrected by jobs that found a free thread.
    """

    def __init__(self, threads: int, queue: int, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self.threads = threads
        self.places = threads + queue
        self.metrics = metrics
        self.tracing = tracing or Tracing()
        self._pool = Threads(threads)
        self._lock = threading.Lock()
        self._taken = 0
        self._seconds = 0.0  # of one request, estimated

    async def do(self, work: Callable[[], T], deadline: float, requests: int = 1, client: Presence | None = None) -> T:
        """Have a job done by a thread.

        Args:
            work: the job.
            deadline: when its result becomes worthless, on the clock of ``perf_counter``.
            requests: how many places it takes.
            client: who waits for the result; when it goes, a job that has not begun is dropped.

        Raises:
            RefusedError: there is no room (429), or the deadline has passed or cannot be met (503).
            ClientDisconnect: the client has gone.
        """
        begun = perf_counter()
        self._enter(requests, deadline - begun)
        job: Future[T] = self._pool.submit(partial(copy_context().run, self._work, work, begun, deadline, requests))
        job.add_done_callback(lambda _: self._leave(requests))
        result = asyncio.wrap_future(job)
        if client is not None:
            client.tell = result.cancel
        try:
            async with asyncio.timeout(deadline - perf_counter()):
                return await result  # leaving it cancels a job that has not begun
        except TimeoutError:  # of this clock, or of the thread that found the job too late
            raise self._late("has passed while the request was waiting or being scored") from None
        except asyncio.CancelledError:
            if client is not None and client.gone:
                raise ClientDisconnect from None
            raise
        finally:
            if client is not None:
                client.tell = None

    @property
    def full(self) -> bool:
        """Whether a request that comes now is refused, whatever it asks."""
        return self._taken >= self.places

    def check_room(self) -> None:
        """Refuse what would find no room, before anything is done for it.

        Raises:
            RefusedError: every place is taken (429).
        """
        if self.full:
            raise self.no_room()

    def close(self) -> None:
        """Let the threads end; jobs that have not begun are dropped."""
        self._pool.close()

    def _enter(self, requests: int, left: float) -> None:
        with self._lock:
            wait = self._wait(requests)
            full = self._taken > 0 and self._taken + requests > self.places
            late = left <= 0 or (self._taken >= self.threads and wait + self._seconds > left)
            if not full and not late:
                self._taken += requests
                self.metrics.jobs.set(self._taken)
        if full:
            raise self.no_room(requests)
        if late:
            raise self._late(f"cannot be met, the wait alone is about {1000 * wait:.0f} ms")

    def _wait(self, requests: int) -> float:
        """How long so many more requests would wait for a thread, estimated."""
        return max(0, self._taken + requests - self.threads) / self.threads * self._seconds

    def _leave(self, requests: int) -> None:
        with self._lock:
            self._taken -= requests
            self.metrics.jobs.set(self._taken)

    def _work(self, work: Callable[[], T], entered: float, deadline: float, requests: int) -> T:
        begun = perf_counter()
        self.metrics.waiting.observe(begun - entered)
        self.tracing.past("queue", entered, begun)
        if begun > deadline:
            raise TimeoutError
        try:
            return work()
        finally:
            took = perf_counter() - begun
            self.metrics.scoring.observe(took)
            with self._lock:
                share = MEMORY if self._seconds else 1.0
                self._seconds += share * (took / requests - self._seconds)

    def no_room(self, requests: int = 1) -> RefusedError:
        """The refusal of so many requests, which is counted."""
        self.metrics.refuse("queue full")
        return busy(
            HTTPStatus.TOO_MANY_REQUESTS, "the queue is full; come again, or send less at a time", self._wait(requests)
        )

    def _late(self, what: str) -> RefusedError:
        self.metrics.refuse("deadline")
        message = f"deadline_ms: {what}; allow more time, or send less"
        return TooLateError(HTTPStatus.SERVICE_UNAVAILABLE, message, later(self._seconds))
