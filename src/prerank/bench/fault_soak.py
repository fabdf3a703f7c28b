"""Kills under load, of workers and of publishers, and many switches at once; the counts have to be the truth."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prerank.bench.environment import environment
from prerank.bench.service_world import HEADERS, PATIENCE, Server, World, serving
from prerank.errors import ArtefactError
from prerank.publish.files import verify
from prerank.publish.generation import GENERATIONS, locate
from prerank.publish.publish import publish_bundle

WORKERS = 2
THREADS = 8
LIVING = 2.0  # seconds of load between two kills of workers
LIGHT = 0.05  # seconds between the requests of each of two clients
COUNTED = 'prerank_requests_total{{endpoint="{}",status="200"}}'


class Load:
    """Clients that ask, each over one connection, until they are stopped; a connection that fails is opened again."""

    def __init__(self, world: World, server: Server, clients: int, pause: float = 0.0) -> None:
        self.world, self.server, self.pause = world, server, pause
        self.right = self.wrong = self.refused = 0
        self.failed: list[float] = []  # when
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Ask as long as the block lasts."""
        for thread in self._threads:
            thread.start()
        yield
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        while not self._stop.is_set():
            try:
                connection.request("POST", "/v1/rank", self.world.bodies["/v1/rank"], HEADERS)
                response = connection.getresponse()
                content = json.loads(response.read())
                right = response.status == 200 and self.world.right(content)
            except (OSError, HTTPException, ValueError):
                connection.close()
                with self._lock:
                    self.failed.append(time.perf_counter())
                continue
            with self._lock:
                self.right += right
                self.refused += response.status != 200
                self.wrong += response.status == 200 and not right
            self._stop.wait(self.pause)
        connection.close()


def fault_soak(
    directory: Path, requests: int, worker_kills: int, publisher_kills: int, switches: int, seed: int
) -> dict[str, Any]:
    """Kill and switch while two workers answer.

    Args:
        directory: an empty one.
        requests: whose counts are compared with the truth, before any kill.
        worker_kills: by SIGKILL, while clients ask as fast as they can; up to four more under a light load.
        publisher_kills: by SIGKILL at random moments, under load.
        switches: calls of rollback or switch of each of eight threads.
        seed: of models and moments.

    Returns:
        What was seen of each part; what is not to be is counted, and zero.
    """
    world = World(directory / "published", seed)
    with serving(world.directory, f"workers={WORKERS}") as server:
        server.ready()
        counts = _count(world, server, requests)
        killed = _kill_workers(world, server, worker_kills, THREADS)
        switched = _switch(world, server, switches, seed)
        published = _kill_publishers(world, server, publisher_kills, seed)
    with serving(world.directory, f"workers={WORKERS}") as server:  # anew: who has ended often is replaced late
        server.ready()
        killed_lightly = _kill_workers(world, server, min(worker_kills, 2 * WORKERS), WORKERS, LIGHT)
    return {
        "seed": seed,
        "workers": WORKERS,
        "counts": counts,
        "worker_kills": killed,
        "worker_kills_under_light_load": killed_lightly,
        "switches": switched,
        "publisher_kills": published,
        "environment": environment(),
    }


def _count(world: World, server: Server, requests: int) -> dict[str, int]:
    """Ask so often, and compare."""
    before = server.numbers()

    def send(count: int) -> None:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        for _ in range(count):
            connection.request("POST", "/v1/rank", world.bodies["/v1/rank"], HEADERS)
            connection.getresponse().read()
        connection.close()

    share = requests // THREADS
    _together(send, [share] * THREADS)
    sent, candidates = share * THREADS, len(json.loads(world.bodies["/v1/rank"])["candidates"])
    truth = {
        COUNTED.format("rank"): sent,
        'prerank_request_seconds_count{endpoint="rank"}': sent,
        "prerank_queue_seconds_count": sent,
        "prerank_score_seconds_count": sent,
        "prerank_candidates_count": sent,
        "prerank_candidates_sum": sent * candidates,
    }
    time.sleep(0.5)  # a request is counted after its last byte
    after = server.numbers()
    wrong = sum(after[name] - before.get(name, 0) != number for name, number in truth.items())
    return {"requests": sent, "counters": len(truth), "counters_off": wrong}


def _kill_workers(world: World, server: Server, kills: int, clients: int, pause: float = 0.0) -> dict[str, Any]:
    """Kill workers under the load of some clients: who notices, and for how long."""
    load, seconds, until_ready, late, moments = Load(world, server, clients, pause), [], [], 0, []
    counters, gone_back, unready = server.counters(), 0, 0
    with load.running():
        for number in range(kills):
            time.sleep(LIVING)
            before = server.workers()
            victim = number % WORKERS
            moments.append(begun := time.perf_counter())
            os.kill(before[victim]["pid"], signal.SIGKILL)
            started = False
            while True:
                worker = server.workers()[victim]
                if not started and worker["pid"] not in (0, before[victim]["pid"]):
                    started = True
                    seconds.append(time.perf_counter() - begun)
                if started and worker["state"] == "ready":
                    break
                if time.perf_counter() - begun > PATIENCE:
                    raise TimeoutError(f"worker {victim} was not replaced")
                unready += not server.is_ready()
                time.sleep(0.02)
            until_ready.append(time.perf_counter() - begun)
            later = server.counters()
            gone_back += sum(later[name] < value for name, value in counters.items())
            counters = later
    late = sum(not any(0 <= when - moment < 1 for moment in moments) for when in load.failed)
    return {
        "kills": kills,
        "clients": clients,
        "answered": load.right,
        "wrong": load.wrong,
        "refused": load.refused,
        "failed": len(load.failed),
        "failed_beyond_those_in_flight": max(0, len(load.failed) - kills * clients),
        "failed_later_than_a_second_after_a_kill": late,
        "times_not_ready": unready,
        "counters_gone_back": gone_back,
        "seconds_until_a_worker_runs_again": _spread(seconds),
        "seconds_until_it_answers": _spread(until_ready),
    }


def _switch(world: World, server: Server, calls: int, seed: int) -> dict[str, Any]:
    """Switch and roll back from several threads at once."""
    answers: list[dict[str, Any]] = []
    refused: list[int] = []

    def call(number: int) -> None:
        rng = random.Random(seed * 1000 + number)
        for _ in range(calls):
            if rng.random() < 0.5:
                status, answer = server.operate("POST", "/v1/rollback", {})
            else:
                status, answer = server.operate("POST", "/v1/switch", {"generation": rng.choice(world.names)})
            (answers if status == 200 else refused).append(answer if status == 200 else status)  # type: ignore[arg-type]

    load = Load(world, server, 2)
    with load.running():
        _together(call, list(range(THREADS)))
    last = max(answers, key=lambda answer: answer["number"])["generation"]
    begun = time.perf_counter()
    while any(worker["generation"] != last for worker in server.workers()):
        if time.perf_counter() - begun > PATIENCE:
            break
        time.sleep(0.02)
    return {
        "threads": THREADS,
        "calls": THREADS * calls,
        "switched": len(answers),
        "nothing_to_go_back_to": refused.count(409),
        "other_answers": len(refused) - refused.count(409),
        "current_is_not_the_last": int(locate(world.directory).name != last),
        "workers_elsewhere": sum(worker["generation"] != last for worker in server.workers()),
        "requests": load.right,
        "requests_failed_or_wrong": load.wrong + load.refused + len(load.failed),
    }


def _kill_publishers(world: World, server: Server, kills: int, seed: int) -> dict[str, Any]:
    """Kill publishers at random moments while requests are answered."""
    rng = random.Random(seed)
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=publisher, args=(there, world.directory, seed))
    process.start()
    longest: float = here.recv()  # of one that is left alone
    unfinished = bad = 0
    load = Load(world, server, 2)
    with load.running():
        for _ in range(kills):
            here.send(True)
            child: int = here.recv()
            time.sleep(rng.uniform(0, 1.1 * longest))
            os.kill(child, signal.SIGKILL)
            unfinished += here.recv() != 0
            try:
                verify(locate(world.directory), "full")
            except ArtefactError:
                bad += 1
    here.send(False)
    process.join(PATIENCE)
    partial = 0
    for place in (world.directory / GENERATIONS).iterdir():
        if place.name != ".part":
            try:
                verify(place, "full")
            except ArtefactError:
                partial += 1
    return {
        "kills": kills,
        "killed_before_their_end": unfinished,
        "current_damaged": bad,
        "generations": len(list((world.directory / GENERATIONS).iterdir())),
        "partial_generations": partial,
        "requests": load.right,
        "requests_failed_or_wrong": load.wrong + load.refused + len(load.failed),
        "refused_by_workers": int(server.numbers()['prerank_generation_loads_total{result="refused"}']),
    }


def publisher(told: Connection, directory: Path, seed: int) -> None:
    """Publish in a process of its own each time it is asked to; the process is the asker's to kill.

    Answers with the seconds that publishing takes, then, each time, with the process id and how it has ended.
    """
    torch.set_num_threads(1)
    bundle, world = World.bundle(seed, 0), World.dataset(seed)
    begun = time.perf_counter()
    publish_bundle(bundle, world, directory)
    told.send(time.perf_counter() - begun)
    while told.recv():
        child = os.fork()
        if child == 0:
            try:
                publish_bundle(bundle, world, directory)
            except ArtefactError:  # two of one second
                os._exit(3)
            os._exit(0)
        told.send(child)
        told.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _together(function: Any, arguments: list[int]) -> None:
    threads = [threading.Thread(target=function, args=(argument,)) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(float(np.median(values)), 2), "most": round(max(values), 2)} if values else {}
