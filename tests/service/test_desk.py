"""The bounded queue: what has no room or no time is refused, and never computed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from prerank.service.desk import Desk
from prerank.service.metrics import Metrics
from prerank.service.presence import Presence
from prerank.service.refusal import RefusedError


class Blocked:
    """Jobs that end when they are told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun: list[int] = []

    def job(self, number: int) -> Callable[[], int]:
        def work() -> int:
            self.begun.append(number)
            assert self.go.wait(10)
            return number

        return work


def soon(seconds: float = 10) -> float:
    return perf_counter() + seconds


def refusal(result: Any) -> tuple[int, str]:
    assert isinstance(result, RefusedError)
    assert int(result.headers["Retry-After"]) >= 1
    return int(result.status), str(result).partition(":")[0]


def test_more_than_fits_is_refused_at_once() -> None:
    async def main() -> None:
        desk, blocked = Desk(threads=1, queue=2, metrics=Metrics()), Blocked()
        jobs = [asyncio.create_task(desk.do(blocked.job(number), soon())) for number in range(3)]
        await asyncio.sleep(0.02)
        begun = perf_counter()
        with pytest.raises(RefusedError) as full:
            await desk.do(blocked.job(3), soon())
        assert refusal(full.value)[0] == 429 and perf_counter() - begun < 0.5
        blocked.go.set()
        assert await asyncio.gather(*jobs) == [0, 1, 2]
        assert await desk.do(blocked.job(4), soon()) == 4  # there is room again
        assert blocked.begun == [0, 1, 2, 4]
        numbers = desk.metrics.registry
        assert numbers.get_sample_value("prerank_refused_total", {"reason": "queue full"}) == 1
        assert numbers.get_sample_value("prerank_jobs") == 0
        desk.close()

    asyncio.run(main())


def test_a_deadline_that_passes_while_waiting_saves_the_work() -> None:
    async def main() -> None:
        desk, blocked = Desk(threads=1, queue=5, metrics=Metrics()), Blocked()
        first = asyncio.create_task(desk.do(blocked.job(0), soon()))
        await asyncio.sleep(0.02)
        begun = perf_counter()
        with pytest.raises(RefusedError) as late:
            await desk.do(blocked.job(1), soon(0.05))
        assert refusal(late.value) == (503, "deadline_ms") and 0.04 < perf_counter() - begun < 1
        blocked.go.set()
        assert await first == 0
        assert await desk.do(blocked.job(2), soon()) == 2
        assert blocked.begun == [0, 2]
        assert desk.metrics.registry.get_sample_value("prerank_refused_total", {"reason": "deadline"}) == 1
        assert desk.metrics.registry.get_sample_value("prerank_jobs") == 0
        desk.close()

    asyncio.run(main())


def test_a_deadline_that_cannot_be_met_is_refused_before_waiting() -> None:
    """Jobs take 50 ms; behind two of them, 60 ms are not enough, and behind none they are."""

    async def main() -> None:
        desk = Desk(threads=1, queue=9, metrics=Metrics())
        await desk.do(lambda: time.sleep(0.05), soon())
        jobs = [asyncio.create_task(desk.do(lambda: time.sleep(0.05), soon())) for _ in range(2)]
        await asyncio.sleep(0)
        begun = perf_counter()
        with pytest.raises(RefusedError) as late:
            await desk.do(lambda: None, soon(0.06))
        assert refusal(late.value) == (503, "deadline_ms") and perf_counter() - begun < 0.04
        await asyncio.gather(*jobs)
        await desk.do(lambda: None, soon(0.06))
        desk.close()

    asyncio.run(main())


def test_an_estimate_that_is_too_long_mends_itself() -> None:
    async def main() -> None:
        desk = Desk(threads=1, queue=9, metrics=Metrics())
        await desk.do(lambda: time.sleep(0.3), soon())
        for _ in range(30):  # the estimate is beyond the deadline, yet the thread is free
            await desk.do(lambda: None, soon(0.2))
        desk.close()

    asyncio.run(main())


def test_a_batch_takes_as_many_places_as_requests() -> None:
    async def main() -> None:
        desk, blocked = Desk(threads=1, queue=4, metrics=Metrics()), Blocked()
        batch = asyncio.create_task(desk.do(blocked.job(0), soon(), requests=4))
        await asyncio.sleep(0.02)
        with pytest.raises(RefusedError) as full:
            await desk.do(blocked.job(1), soon(), requests=2)
        assert refusal(full.value)[0] == 429
        one = asyncio.create_task(desk.do(blocked.job(2), soon()))
        blocked.go.set()
        assert [await batch, await one] == [0, 2]
        # More than there are places at all, but nobody else is there.
        assert await desk.do(blocked.job(3), soon(), requests=20) == 3
        desk.close()

    asyncio.run(main())


def test_a_passed_deadline_and_an_error_of_the_job() -> None:
    async def main() -> None:
        desk = Desk(threads=1, queue=1, metrics=Metrics())
        done: list[int] = []
        with pytest.raises(RefusedError):
            await desk.do(lambda: done.append(1), perf_counter() - 1)
        with pytest.raises(ZeroDivisionError):
            await desk.do(lambda: 1 // 0, soon())
        assert done == [] and desk.metrics.registry.get_sample_value("prerank_jobs") == 0
        desk.close()

    asyncio.run(main())


def test_a_client_that_goes_frees_its_place() -> None:
    """What waits is dropped at once; what is being scored keeps its thread, and nobody waits for it."""

    async def main() -> None:
        desk, blocked = Desk(threads=1, queue=1, metrics=Metrics()), Blocked()
        clients = [Presence(), Presence()]
        jobs = [
            asyncio.create_task(desk.do(blocked.job(number), soon(), client=client))
            for number, client in enumerate(clients)
        ]
        while not blocked.begun:
            await asyncio.sleep(0.01)
        with pytest.raises(RefusedError):
            await desk.do(blocked.job(2), soon())
        clients[1].leave()
        with pytest.raises(ClientDisconnect):
            await jobs[1]
        numbers = desk.metrics.registry
        assert numbers.get_sample_value("prerank_jobs") == 1
        third = asyncio.create_task(desk.do(blocked.job(3), soon(), client=Presence()))  # there is room again
        await asyncio.sleep(0.02)
        clients[0].leave()
        with pytest.raises(ClientDisconnect):
            await jobs[0]
        assert numbers.get_sample_value("prerank_jobs") == 2 and blocked.begun == [0]
        blocked.go.set()
        assert await third == 3 and blocked.begun == [0, 3]
        desk.close()

    asyncio.run(main())


def test_a_client_that_stays_is_not_told() -> None:
    async def main() -> None:
        desk, client = Desk(threads=1, queue=1, metrics=Metrics()), Presence()
        assert await desk.do(lambda: 7, soon(), client=client) == 7
        client.leave()  # after its answer, nothing is left to stop
        desk.close()

    asyncio.run(main())


def test_an_end_of_the_service_is_no_disconnect() -> None:
    async def main() -> None:
        desk, blocked = Desk(threads=1, queue=1, metrics=Metrics()), Blocked()
        job = asyncio.create_task(desk.do(blocked.job(0), soon(), client=Presence()))
        await asyncio.sleep(0.02)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        blocked.go.set()
        desk.close()

    asyncio.run(main())
