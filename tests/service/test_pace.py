"""Spells and rests by a clock that the test turns, and that nothing of it stays or spreads."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from prerank.service import pace
from prerank.service.pace import REST, SPELL, paced


class Clock:
    """Each call of ``work`` takes three tenths of a spell."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rests: list[float] = []

    def work(self) -> None:
        """Take time."""
        self.now += SPELL * 0.3

    def rest(self, seconds: float) -> None:
        """As ``sleep``."""
        assert seconds == REST
        self.rests.append(self.now)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(pace, "sleep", clock.rest)
    return clock


def test_work_rests_after_each_spell(clock: Clock) -> None:
    """Four calls are the first sum above a spell: 40 calls are ten spells."""
    with paced():
        for _ in range(40):
            clock.work()
    assert len(clock.rests) == 10
    between = [SPELL * 1.2 + REST] * 9
    assert [b - a for a, b in zip(clock.rests, clock.rests[1:], strict=False)] == pytest.approx(between)


def test_afterwards_nothing_rests_even_if_it_failed(clock: Clock) -> None:
    with pytest.raises(MemoryError), paced():
        raise MemoryError
    assert sys.getprofile() is None
    for _ in range(40):
        clock.work()
    assert clock.rests == []


def test_other_threads_do_not_rest() -> None:
    with paced():
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(sys.getprofile()))
        thread.start()
        thread.join()
        assert found == [None]
        assert sys.getprofile() is not None


def test_rests_are_real() -> None:
    """With the true clock, 20 ms of work take several times as long."""

    def work() -> int:
        return sum(range(100))

    def seconds() -> float:
        begun, used = time.perf_counter(), time.thread_time()
        while time.thread_time() - used < 0.02:
            work()
        return time.perf_counter() - begun

    with paced():
        assert seconds() > 0.05
