"""Threads that score. The one that worked last works next: what it needs is still in its core's caches.

The standard library's pool hands jobs to whoever has waited longest, and so to the coldest core.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
Job = tuple[Future[Any], Callable[[], Any]]
PATIENCE = 5.0  # seconds that a job may still take when the threads are to end


class Threads:
    """A fixed number of threads before one queue."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._backlog: deque[Job] = deque()
        self._inboxes: list[SimpleQueue[Job | None]] = [SimpleQueue() for _ in range(count)]
        self._idle = list(self._inboxes)
        self._threads = [
            threading.Thread(target=self._run, args=(inbox,), name=f"score-{number}", daemon=True)
            for number, inbox in enumerate(self._inboxes)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have a job done; one that has not begun can be cancelled."""
        future: Future[T] = Future()
        with self._lock:
            if self._idle:
                self._idle.pop().put((future, work))
            else:
                self._backlog.append((future, work))
        return future

    def close(self) -> None:
        """Let the threads end; jobs that have not begun are dropped."""
        with self._lock:
            dropped = [future for future, _ in self._backlog]
            self._backlog.clear()
        for future in dropped:
            future.cancel()
        for inbox in self._inboxes:
            inbox.put(None)
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self, inbox: SimpleQueue[Job | None]) -> None:
        while (job := inbox.get()) is not None:
            while job is not None:
                job = self._do(job, inbox)

    def _do(self, job: Job, inbox: SimpleQueue[Job | None]) -> Job | None:
        """Do a job: the next one that waits."""
        future, work = job
        if not future.set_running_or_notify_cancel():
            return self._next(inbox)
        try:
            result = work()
        except BaseException as error:
            following = self._next(inbox)
            future.set_exception(error)
        else:
            following = self._next(inbox)  # first, so that whom the result wakes up finds this thread idle
            future.set_result(result)
        return following

    def _next(self, inbox: SimpleQueue[Job | None]) -> Job | None:
        with self._lock:
            if self._backlog:
                return self._backlog.popleft()
            self._idle.append(inbox)
            return None
