"""Several workers are one service: its counts, its readiness, its generations, its end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.service.conftest import Answer, Running, Serve
from tests.service.test_live import names, point

from prerank.errors import ServiceError
from prerank.publish.generation import locate
from prerank.service.group import supervisor as module
from prerank.service.group.supervisor import Supervisor
from prerank.service.http.accept import listening_at
from prerank.service.settings import ServiceConfig

pytestmark = pytest.mark.xdist_group("service")

REQUESTS, THREADS = 2000, 8  # prerank bench workers asks 10,000
TOLD = 'prerank_requests_total{endpoint="rank",status="200"}'
ONE = {"candidates": ["item-0001", "no such item"], "deadline_ms": 60_000}


@pytest.fixture(scope="module")
def served(master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to write to."""
    return Path(shutil.copytree(master, tmp_path_factory.mktemp("pair") / "published"))


@pytest.fixture(scope="module")
def pair(serve: Serve, served: Path) -> Running:
    """A service of two workers."""
    settings = ("workers=2", "watch_seconds=0.05", "queue=100", "grpc_port=0")
    return serve(served, *(part for setting in settings for part in ("--set", setting)))


def ask(server: Running, count: int) -> list[Answer]:
    """So many requests, from several connections."""
    answers: list[Answer] = []

    def send(number: int) -> None:
        connection = server.connect()
        answers.extend(server.rank(ONE, connection=connection) for _ in range(number))
        connection.close()

    threads = [threading.Thread(target=send, args=(count // THREADS,)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def pids(server: Running) -> dict[str, int]:
    """Process ids of the workers that are there, by number."""
    found: dict[str, int] = {}
    for name in server.numbers():
        if name.startswith("process_open_fds"):
            labels = dict(part.split("=") for part in name[name.index("{") + 1 : -1].split(","))
            found[labels["worker"].strip('"')] = int(labels["pid"].strip('"'))
    return found


def until(what: Callable[[], Any]) -> Any:
    """Wait for it, a minute or two."""
    for _ in range(2400):
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("did not come")


def test_counts_are_exact_over_workers_and_their_ends(pair: Running) -> None:
    assert pair.numbers()["prerank_workers"] == 2
    answers = ask(pair, REQUESTS)
    assert len(answers) == REQUESTS and {answer.status for answer in answers} == {200}
    numbers = until(lambda: counted if (counted := pair.numbers())[TOLD] == REQUESTS else None)
    truth = {
        TOLD: REQUESTS,
        "prerank_unknown_candidates_total": REQUESTS,
        "prerank_candidates_count": REQUESTS,
        "prerank_candidates_sum": 2 * REQUESTS,
        "prerank_queue_seconds_count": REQUESTS,
        "prerank_score_seconds_count": REQUESTS,
        'prerank_request_seconds_count{endpoint="rank"}': REQUESTS,
        'prerank_request_seconds_bucket{endpoint="rank",le="+Inf"}': REQUESTS,
        'prerank_generation_loads_total{result="loaded"}': 2,
        "prerank_jobs": 0,
        "prerank_ready": 1,
        "prerank_worker_restarts_total": 0,
    }
    assert {name: numbers[name] for name in truth} == truth
    before = pids(pair)
    os.kill(before["1"], signal.SIGKILL)
    assert until(lambda: pair.numbers()["prerank_worker_restarts_total"]) == 1
    assert pair.call("GET", "/healthz/ready").status == 200  # the other one answers
    later = until(lambda: after if (after := pair.numbers())["prerank_workers"] == 2 else None)
    assert pids(pair)["0"] == before["0"] and pids(pair)["1"] != before["1"]
    gone = [name for name in numbers if "_total" in name and "process" not in name and later[name] < numbers[name]]
    assert not gone and later[TOLD] == REQUESTS
    ask(pair, THREADS)
    until(lambda: pair.numbers()[TOLD] == REQUESTS + THREADS)


def test_both_workers_answer_over_grpc(pair: Running) -> None:
    for number in range(20):  # a new connection each: the system draws lots between two sockets
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.primary_user_agent", str(number))]
        with grpc.insecure_channel(f"127.0.0.1:{pair.rpc_port}", options=options) as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
            assert live(b"", timeout=60) == b"\x08\x01"


def test_both_workers_follow(pair: Running, served: Path) -> None:
    old = locate(served).name
    other = next(name for name in names(served) if name != old)
    point(served, other)

    def info() -> set[str]:
        return {name for name in pair.numbers() if name.startswith("prerank_generation_info")}

    until(lambda: len(info()) == 1 and other in next(iter(info())))
    connections = [pair.connect() for _ in range(4)]
    assert {pair.rank(ONE, connection=one).json["generation"] for one in connections} == {other}
    point(served, old)
    until(lambda: len(info()) == 1 and old in next(iter(info())))


def test_a_new_worker_serves_what_the_others_do(pair: Running, served: Path) -> None:
    """Though what CURRENT names is refused."""
    good = locate(served).name
    point(served, "20200101T000000-00000000")
    until(lambda: pair.numbers()['prerank_generation_loads_total{result="refused"}'] >= 2)
    restarts = pair.numbers()["prerank_worker_restarts_total"]
    os.kill(pids(pair)["0"], signal.SIGKILL)
    until(lambda: pair.numbers()["prerank_worker_restarts_total"] == restarts + 1)
    until(lambda: pair.numbers()["prerank_workers"] == 2)
    connections = [pair.connect() for _ in range(4)]
    assert {pair.rank(ONE, connection=one).json["generation"] for one in connections} == {good}
    point(served, good)


def test_who_ends_is_replaced_by_a_process_that_has_waited(pair: Running) -> None:
    until(lambda: pair.numbers()["prerank_workers"] == 2)
    (spare,) = until(lambda: children(pair) - set(pids(pair).values()))
    os.kill(pids(pair)["0"], signal.SIGKILL)
    until(lambda: pair.numbers()["prerank_workers"] == 2 and pids(pair).get("0") == spare)
    (other,) = until(lambda: children(pair) - set(pids(pair).values()))
    os.kill(other, signal.SIGKILL)  # it is not missed before it is needed
    os.kill(pids(pair)["0"], signal.SIGKILL)
    until(lambda: pair.numbers()["prerank_workers"] == 2 and pids(pair).get("0", spare) not in (spare, other))


def children(server: Running) -> set[int]:
    """The processes that the supervisor has started, those that have ended left out."""
    tasks = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return {int(pid) for pid in tasks if Path(f"/proc/{pid}/cmdline").read_bytes()}


def test_workers_end_with_their_supervisor(pair: Running) -> None:
    """Even if that is killed, and the spare one, too; run last."""
    workers = until(lambda: found if len(found := children(pair)) == 3 else None)
    pair.process.kill()
    pair.process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def run(directory: Path, monkeypatch: pytest.MonkeyPatch, program: str | None = None) -> None:
    """A service of two workers, in this process but for these."""
    if program is not None:

        async def execute(*_: Any) -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(sys.executable, "-c", program)

        monkeypatch.setattr(Supervisor, "_execute", execute)
    monkeypatch.setattr(module, "FIRST", 0.01)
    with listening_at("127.0.0.1", 0, "host") as listener:
        asyncio.run(Supervisor(directory, ServiceConfig(workers=2), None, listener, lambda: None).run())


def test_a_worker_that_always_dies_is_an_error(master: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServiceError, match=r"^worker [01] has ended 5 times before it was ready: exit code 3$"):
        run(master, monkeypatch, "raise SystemExit(3)")
    with pytest.raises(ServiceError, match=r"before it was ready: signal 9$"):
        run(master, monkeypatch, "import os; os.kill(os.getpid(), 9)")


def test_what_cannot_be_served_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServiceError, match=r"nothing is published here \(no CURRENT\); use: prerank publish$"):
        run(tmp_path, monkeypatch)
