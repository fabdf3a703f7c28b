"""Threads that score: the last one that worked works next, and nothing is lost."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError

import pytest

from prerank.service.threads import Threads


def test_one_after_the_other_is_done_by_one_thread() -> None:
    threads = Threads(4)
    names = {threads.submit(lambda: threading.current_thread().name).result(30) for _ in range(200)}
    assert len(names) == 1
    threads.close()


def test_as_many_at_a_time_as_there_are_threads() -> None:
    threads, together = Threads(3), threading.Barrier(3)
    jobs = [threads.submit(lambda: together.wait(30)) for _ in range(6)]
    assert sorted(job.result(30) for job in jobs) == [0, 0, 1, 1, 2, 2]
    threads.close()


def test_jobs_come_in_order_and_errors_go_to_who_asked() -> None:
    threads, go, done = Threads(1), threading.Event(), list[int]()

    def job(number: int) -> int:
        assert go.wait(30)
        done.append(number)
        return 12 // number

    jobs = [threads.submit(lambda number=number: job(number)) for number in (4, 0, 3)]  # type: ignore[misc]
    dropped = threads.submit(lambda: job(9))
    assert dropped.cancel()
    last = threads.submit(lambda: job(2))
    go.set()
    assert (jobs[0].result(30), jobs[2].result(30), last.result(30)) == (3, 4, 6)
    with pytest.raises(ZeroDivisionError):
        jobs[1].result(30)
    assert done == [4, 0, 3, 2]
    threads.close()


def test_an_end_drops_what_waits() -> None:
    threads, go = Threads(1), threading.Event()
    running, waiting = threads.submit(lambda: go.wait(30)), threads.submit(lambda: None)
    while not running.running():
        time.sleep(0.01)
    threading.Timer(0.05, go.set).start()
    threads.close()
    assert running.result(30) is True
    with pytest.raises(CancelledError):
        waiting.result(0)
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("score-") and thread in threads._threads
    ]
