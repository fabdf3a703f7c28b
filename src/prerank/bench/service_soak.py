"""A served directory whose generations change under load, some of them damaged: no answer may fail or be of two."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

import numpy as np

from prerank.bench.environment import environment
from prerank.bench.service_world import PATIENCE, Client, Sent, Server, World, serving

LOADS = 'prerank_generation_loads_total{{result="{}"}}'
CLIENTS = 3  # the first of which sends batches
HALF_SENT = 200
PAUSE = 0.1  # seconds from a swap to the look at memory, which is not to disturb it


def service_soak(
    directory: Path, swaps: int, bad: int, steady_seconds: float, seed: int, workers: int = 1, rate: float = 0.0
) -> dict[str, Any]:
    """Swap generations under load, good and damaged ones, and end the service with requests in flight.

    Args:
        directory: an empty one.
        swaps: between two good generations.
        bad: damaged generations, one flipped bit each, in between.
        steady_seconds: of load before the first swap.
        seed: of models and flips.
        workers: that answer.
        rate: requests a second; as many as are answered if 0.

    Returns:
        Counts that have to be zero (``failed``, ``wrong``, ``bad_served``, ``half_sent_lost``), and what was measured.
    """
    world, rng = World(directory / "published", seed), np.random.default_rng(seed)
    with serving(world.directory, f"workers={workers}") as server:
        server.ready()
        paths = ["/v1/rank:batch", *["/v1/rank"] * (CLIENTS - 1)]
        clients = [Client(world, server.port, path, CLIENTS / rate if rate else 0.0) for path in paths]
        for client in clients:
            client.start()
        time.sleep(steady_seconds)
        windows, memory, files, refused = [], [], [], 0
        for number in range(swaps):
            name = world.names[number % 2]
            begun = time.perf_counter()
            world.point(name)
            server.until(lambda worker, name=name: worker["generation"] == name)  # type: ignore[misc]
            windows.append((begun, time.perf_counter()))
            time.sleep(PAUSE)
            memory.append(server.of_processes("resident_memory_bytes") / 2**20)
            files.append(int(server.of_processes("open_fds")))
            while refused * swaps < bad * (number + 1):
                name = world.damage(refused, rng)
                world.point(name)
                server.until(lambda worker, name=name: name in worker["refused"])  # type: ignore[misc]
                refused += 1
        loaded = server.numbers()[LOADS.format("loaded")]
        lost = _end(world, server)
        for client in clients:
            client.join(PATIENCE)
        code = server.process.wait(PATIENCE)
    sent = [one for client in clients for one in client.sent]
    during = [one for one in sent if any(one.begun < end and one.ended > begin for begin, end in windows)]
    before = [one for one in sent if one.ended < windows[0][0]]
    shown = sorted({0, min(19, swaps - 1), swaps - 1})
    return {
        "seed": seed,
        "workers": workers,
        "requests_a_second": rate or "as many as are answered",
        "requests": len(sent),
        "failed": sum(one.status != 200 for one in sent) + sum(len(client.failures) for client in clients),
        "wrong": sum(one.status == 200 and not one.right for one in sent),
        "swaps": swaps,
        "bad_generations": bad,
        "bad_served": int(loaded) - workers * (1 + swaps),
        "half_sent": HALF_SENT,
        "half_sent_lost": lost,
        "exit_code": code,
        "milliseconds": {"steady": _times(before), "during_swaps": _times(during)},
        "swap_seconds": round(float(np.median([end - begin for begin, end in windows])), 3),
        "megabytes_after_swap": {str(1 + at): round(memory[at], 1) for at in shown},
        "open_files_after_swap": {str(1 + at): files[at] for at in shown},
        "environment": environment(),
    }


def _end(world: World, server: Server) -> int:
    """Send halves of requests, then SIGTERM, then the other halves: how many of them are not answered."""
    body = world.bodies["/v1/rank"]
    head = (
        f"POST /v1/rank HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    half = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(HALF_SENT)]
    for connection in half:
        connection.sendall(head.encode() + body[:50])
    server.process.send_signal(signal.SIGTERM)
    while server.accepts():
        time.sleep(0.02)
    lost = 0
    for connection in half:
        try:
            connection.sendall(body[50:])
            response = HTTPResponse(connection)
            response.begin()
            lost += not (response.status == 200 and world.right(json.loads(response.read())))
        except (OSError, HTTPException):
            lost += 1
        connection.close()
    return lost


def _times(sent: Sequence[Sent]) -> dict[str, float]:
    times = np.array([1000 * (one.ended - one.begun) for one in sent])
    if not len(times):
        return {"count": 0}
    return {"count": len(times), **{f"p{q}": round(float(np.percentile(times, q)), 2) for q in (50, 99)}}
