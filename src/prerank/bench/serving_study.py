"""How much of a machine the service needs: overhead over the in-process time, saturation, and overload.

All of it is measured on FIT with random weights, 2,000 candidates a request, and on a machine that also runs the
generator.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch

from prerank.bench.environment import environment
from prerank.bench.load import Outcome, closed_loop, constant, open_loop, poisson, quantiles, summary
from prerank.bench.load_payloads import native, open_binary, random_asked
from prerank.bench.load_servers import Running, plain_service, prerank_service, random_model
from prerank.bench.wrk import wrk
from prerank.serving.preranker import PreRanker
from prerank.serving.request import Request

FIRST = 50  # requests that warm up
PAUSE = 0.002  # seconds before a request that is timed alone
CONNECTIONS = 32  # that keep a service busy without filling its queue
SHARE = 0.7  # of saturation, at which p99 is told
TIMES = 3  # saturation, in overload
AFTER = 0.5  # of saturation, when overload is over
MANY = 400  # connections of the overload
WINDOW = 0.25  # seconds, in which recovery is looked for
WARM = 2.0  # seconds of load before a service is measured

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Study:
    """What is measured with.

    Attributes:
        model: of the registry.
        items: in the catalogue.
        candidates: of a request.
        history: past items of a request.
        k: how many are returned.
        seconds: of each measurement of saturation.
        overload_seconds: of the overload.
        seed: of weights, catalogue, requests and arrivals.
    """

    model: str = "fit"
    items: int = 100_000
    candidates: int = 2000
    history: int = 50
    k: int = 100
    seconds: float = 10
    overload_seconds: float = 60
    seed: int = 1

    def asked(self) -> list[Request]:
        """Different requests, to be sent in turn."""
        return random_asked(200, self.candidates, self.history, self.items, self.k, self.seed)


def overhead(directory: Path, study: Study, progress: Progress) -> dict[str, Any]:
    """The time of a request over HTTP on one connection, and of the same request in process, at a low rate."""
    progress("publishing", 0, 3)
    published, asked = random_model(directory, study.model, study.items, study.seed), study.asked()
    torch.set_num_threads(1)
    ranker = PreRanker.load(published, preload=True)
    bodies = {"http_binary": [open_binary(one) for one in asked], "http_json": [native(one) for one in asked]}
    progress("starting", 1, 3)
    with prerank_service(published, {}, directory / "log") as service, _Line(service.port) as line:
        ways: dict[str, Callable[[int], object]] = {
            "in_process": lambda number: ranker.answer(asked[number]),
            **{name: _sending(line, each) for name, each in bodies.items()},
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        progress("measuring", 2, 3)
        begun, number, rng = perf_counter(), 0, np.random.default_rng(study.seed)
        while perf_counter() - begun < 3 * study.seconds:
            for name in rng.permutation(list(ways)):
                sleep(PAUSE)  # as at a low rate: all ways find a machine that has been idle, and caches as cold
                way, before = ways[name], perf_counter()
                way(number % len(asked))
                times[name].append(1000 * (perf_counter() - before))
            number += 1
        witness = _witness(service, bodies["http_binary"], study, directory)
    measured = {
        name: {"requests": len(each[FIRST:]), **quantiles(np.array(each[FIRST:]))} for name, each in times.items()
    }
    added = {name: round(measured[name]["p50"] - measured["in_process"]["p50"], 3) for name in bodies}
    return {**_facts(study), "milliseconds": measured, "added_p50_ms": added, "wrk": witness}


def saturation(directory: Path, study: Study, progress: Progress) -> dict[str, Any]:
    """Answers a second at most, and latency at 70 % of it, of the service and of a plain one with the same weights."""
    published, asked = random_model(directory, study.model, study.items, study.seed), study.asked()
    bodies = {"binary": [open_binary(one) for one in asked], "json": [native(one) for one in asked]}
    plain = [_for_plain(one) for one in bodies["json"]]
    rows: list[dict[str, Any]] = []
    for step, workers in enumerate((1, 2)):
        progress(f"{workers} workers", 2 * step, 4)
        with prerank_service(published, {"workers": workers}, directory / "log") as service:
            for payload, requests in bodies.items():
                row = _saturated(service, requests, study)
                rows.append({"service": "prerank", "workers": workers, "payload": payload, **row})
        for inline, name in ((False, "plain"), (True, "plain, async")):
            progress(f"{name}, {workers} workers", 2 * step + 1, 4)
            with plain_service(published, workers, inline, directory / "log") as service:
                row = _saturated(service, plain, study)
                rows.append({"service": name, "workers": workers, "payload": "json", **row})
    return {**_facts(study), "connections": CONNECTIONS, "share": SHARE, "rows": rows, "ratio": ratio(rows)}


def overload(directory: Path, study: Study, progress: Progress) -> dict[str, Any]:
    """Three times as many requests as can be answered, and then half as many as can be."""
    progress("publishing", 0, 3)
    published = random_model(directory, study.model, study.items, study.seed)
    requests = [open_binary(one) for one in study.asked()]
    with prerank_service(published, {}, directory / "log") as service:
        progress("saturation", 1, 3)
        closed_loop(service.url, requests, WARM, CONNECTIONS)
        most = summary(closed_loop(service.url, requests, study.seconds, CONNECTIONS))["answers_per_second"]
        calm = summary(open_loop(service.url, requests, constant(AFTER * most, study.seconds), MANY))
        before = service.resident_mib()
        progress("overload", 2, 3)
        length = study.overload_seconds
        during, after = poisson(TIMES * most, length, study.seed), constant(AFTER * most, 10)
        outcome = open_loop(service.url, requests, np.concatenate([during, length + after]), MANY)
        grown = service.resident_mib() - before
    over = _part(outcome, outcome.due < length, length)
    ended = outcome.ended[outcome.status == 200]
    goodput = float((ended < length).sum()) / length
    return {
        **_facts(study),
        "saturation_per_second": most,
        "calm": calm,
        "asked_per_second": round(len(during) / length, 1),
        "overload": over,
        "goodput_per_second": round(goodput, 1),
        "goodput_share": round(goodput / most, 3),
        "recovery_seconds": recovery(outcome, length, calm["latency_ms"]["p50"]),
        "memory_growth_mib": round(grown, 1),
    }


def recovery(outcome: Outcome, end: float, usual: float) -> float | None:
    """Seconds from the end of an overload until nothing is refused and half of the requests take at most twice as long.

    Args:
        outcome: of the overload and of what came after it.
        end: of the overload, in seconds.
        usual: milliseconds that half of the requests take otherwise.

    Returns:
        To the end of the first window from which on it is so for the rest; None if it never is.
    """
    last = outcome.due[-1]
    starts = np.arange(end, last - WINDOW, WINDOW)
    good = []
    for start in starts:
        within = (outcome.due >= start) & (outcome.due < start + WINDOW)
        answered = (outcome.status[within] == 200).all()
        good.append(bool(answered and np.median(outcome.ended[within] - outcome.due[within]) * 1000 <= 2 * usual))
    if not good or not good[-1]:
        return None
    bad = [place for place, fine in enumerate(good) if not fine]
    return round(WINDOW * (bad[-1] + 2 if bad else 1), 3)


def _saturated(service: Running, requests: Sequence[bytes], study: Study) -> dict[str, Any]:
    closed_loop(service.url, requests, WARM, CONNECTIONS)
    most = summary(closed_loop(service.url, requests, study.seconds, CONNECTIONS))
    rate = SHARE * most["answers_per_second"]
    part = summary(open_loop(service.url, requests, poisson(rate, study.seconds, study.seed), 2 * CONNECTIONS))
    return {"saturation": most, "at_share": part}


def ratio(rows: Sequence[dict[str, Any]]) -> float:
    """How many times the throughput of the plain service, each at its best, both with JSON."""
    most = {"prerank": 0.0, "plain": 0.0}
    for row in rows:
        if row["payload"] == "json":
            name = row["service"].partition(",")[0]
            most[name] = max(most[name], row["saturation"]["answers_per_second"])
    return round(most["prerank"] / most["plain"], 2)


def _part(outcome: Outcome, chosen: Any, seconds: float) -> dict[str, Any]:
    part = Outcome(
        outcome.due[chosen], outcome.sent[chosen], outcome.ended[chosen], outcome.status[chosen], seconds, outcome.cpu
    )
    return summary(part)


def _witness(service: Running, requests: Sequence[bytes], study: Study, directory: Path) -> dict[str, Any]:
    """The generator beside wrk: one connection, far from saturation, and as many as saturate."""
    found: dict[str, dict[str, Any]] = {}
    for name, connections in (("alone", 1), ("saturated", CONNECTIONS)):
        theirs = wrk(service.url, requests, study.seconds, connections, directory / name)
        if theirs is None:
            return {"missing": "wrk is not installed, so the generator was not checked: apt install wrk"}
        found[name] = {
            "connections": connections,
            "wrk": theirs,
            "generator": summary(closed_loop(service.url, requests, study.seconds, connections)),
        }
    rate = 0.3 * found["alone"]["wrk"]["answers_per_second"]
    open_rate = summary(open_loop(service.url, requests, constant(rate, study.seconds), CONNECTIONS))
    return {**found, "open_loop": {"rate": round(rate, 1), **open_rate}}


def _for_plain(request: bytes) -> bytes:
    return request.replace(b"POST /v1/rank ", b"POST /rank ", 1)


def _facts(study: Study) -> dict[str, Any]:
    return {**vars(study), "environment": environment()}


class _Line:
    """A blocking connection, on which an exchange costs the client next to nothing."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def exchange(self, request: bytes) -> bytes:
        """The answer to a request."""
        self.socket.sendall(request)
        got = self.socket.recv(1 << 18)
        head, _, body = got.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ChildProcessError(f"the service answered: {got[:200]!r}")
        lower = head.lower()
        size = int(lower[lower.index(b"content-length:") + 15 :].split(b"\r\n", 1)[0])
        while len(body) < size:
            body += self.socket.recv(1 << 18)
        return body


def _sending(line: _Line, bodies: Sequence[bytes]) -> Callable[[int], bytes]:
    return lambda number: line.exchange(bodies[number])
