"""What Prometheus reads at /metrics. Counters belong to one service; nothing is registered globally.

Several workers count in prometheus_client's multiprocess mode: each writes mapped files of its own, and whichever is
asked adds them all up. A worker's number names its files, not its process id, so that one that was restarted counts on
where the one before it ended, even if that was killed.
"""

from __future__ import annotations

import atexit
import os
from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from prerank.service.group.members import Group

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
SIZES = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)

RANKING = ("rank", "rank_batch", "infer", "ModelInfer")
"""The endpoints and procedures whose responses are rankings."""


def count_together(directory: Path, worker: int) -> None:
    """Have all numbers of this process, from now on, lie in files of a directory that all workers share.

    Args:
        directory: of this service alone.
        worker: the number of this one; no two that run at the same time have the same.
    """
    mark_process_dead(worker, str(directory))  # its gauges begin anew
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    values.ValueClass = values.MultiProcessValue(lambda: worker)
    atexit.register(values.close_all_multiprocess_files)


class Metrics:
    """The service's numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Responses by endpoint and status", "endpoint", "status")
        self.latency = Histogram(
            "prerank_request_seconds",
            "From the headers to the last byte of the response",
            ["endpoint"],
            registry=self.registry,
            buckets=SECONDS,
        )
        self.waiting = self._seconds("queue_seconds", "A request's wait for a thread")
        self.scoring = self._seconds("score_seconds", "Encoding, scoring and sorting of a request or a batch")
        self.candidates = Histogram(
            "prerank_candidates", "Candidates of a request", registry=self.registry, buckets=SIZES
        )
        self.unknown = self._counter("unknown_candidates", "Candidates that are not in the catalogue")
        self.unknown_history = self._counter("unknown_history", "Past items that are not in the catalogue")
        self.partial = self._counter("partial_answers", "Answers cut short by their soft deadline")
        self.refused = self._counter("refused", "Requests refused for lack of capacity or time", "reason")
        self.sampled = self._counter("sampled_requests", "Sampled requests by what became of them", "result")
        self.loads = self._counter("generation_loads", "Attempts to load a generation", "result")
        self.degraded = self._counter("degraded", "Answers whose rows were local ones for want of the shared store")
        self.shared_up = Gauge(
            "prerank_shared_store_up",
            "1 while rows of the generation come from the shared store, in every worker",
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.shared_fetches = self._counter("shared_store_fetches", "Requests for rows of the shared store", "result")
        self.shared_seconds = self._seconds("shared_store_seconds", "The wait for rows of the shared store")
        self.jobs = Gauge(
            "prerank_jobs",
            "Requests that wait for a thread or are being scored",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._responses: dict[tuple[str, str], tuple[Counter, Histogram]] = {}  # looked up once
        self._refusals = {reason: self.refused.labels(reason) for reason in ("queue full", "deadline")}
        for result in ("written", "dropped"):
            self.sampled.labels(result)
        for result in ("whole", "incomplete", "failed", "not asked"):
            self.shared_fetches.labels(result)
        for result in ("loaded", "refused"):
            self.loads.labels(result)

    def respond(self, endpoint: str, status: str, seconds: float) -> None:
        """Count a response."""
        if (place := (endpoint, status)) not in self._responses:
            self._responses[place] = self.requests.labels(*place), self.latency.labels(endpoint)
        count, latency = self._responses[place]
        count.inc()
        latency.observe(seconds)

    def refuse(self, reason: Literal["queue full", "deadline"]) -> None:
        """Count a request that there is no room or no time for."""
        self._refusals[reason].inc()

    def text(self, group: Group) -> bytes:
        """The page: what all workers have counted, and how they are."""
        state = CollectorRegistry()
        state.register(_Workers(group))
        return generate_latest(self.counted()) + generate_latest(state)

    def counted(self) -> CollectorRegistry:
        """What all workers have counted."""
        if values.ValueClass is values.MutexValue:
            return self.registry
        together = CollectorRegistry()
        MultiProcessCollector(together, os.environ["PROMETHEUS_MULTIPROC_DIR"])
        return together

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"prerank_{name}", what, labels, registry=self.registry)

    def _seconds(self, name: str, what: str) -> Histogram:
        return Histogram(f"prerank_{name}", what, registry=self.registry, buckets=SECONDS)


class _Workers(Collector):
    """How the workers are."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def collect(self) -> Iterator[Metric]:
        """The series."""
        workers = self.group.workers()
        ready = [worker for worker in workers if worker.state == "ready"]
        yield _gauge("ready", "1 while requests are welcome", float(self.group.ready))
        yield _gauge("workers", "Workers that answer", len(ready))
        yield CounterMetricFamily(
            "prerank_worker_restarts",
            "Workers that ended and were replaced",
            sum(worker.restarts for worker in workers),
        )
        yield _gauge("items", "Rows of the item store, without updates", max((one.items for one in workers), default=0))
        served = GaugeMetricFamily(
            "prerank_generation_info", "1 for the generation that is served", labels=["generation", "model"]
        )
        for generation, model in sorted({(one.generation, one.model) for one in workers if one.generation}):
            served.add_metric([generation, model], 1)
        yield served
        yield from _processes([(one.worker, one.pid) for one in workers if one.pid])


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"prerank_{name}", what, value)


def _processes(workers: Iterable[tuple[int, int]]) -> list[Metric]:
    """Memory, CPU time and file handles of each worker's process."""
    merged: dict[str, Metric] = {}
    for number, pid in workers:
        for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
            whole = merged.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            for sample in metric.samples:
                whole.add_sample(sample.name, {"worker": str(number), "pid": str(pid)}, sample.value)
    return list(merged.values())


@dataclass(frozen=True)
class Numbers:
    """What of the service's numbers a person wants to see, read as Prometheus reads them.

    Attributes:
        answered: responses to ranking requests, by status.
        bounds: of the classes of their times, in seconds; the last class has no bound.
        counts: responses in each class.
    """

    answered: dict[str, int]
    bounds: list[float]
    counts: list[int]

    @classmethod
    def read(cls, metrics: Metrics) -> Self:
        """As of now."""
        answered, below = Tally[str](), Tally[float]()
        for family in metrics.counted().collect():
            for sample in family.samples:
                if sample.labels.get("endpoint") not in RANKING:
                    continue
                if sample.name == "prerank_requests_total":
                    answered[sample.labels["status"]] += int(sample.value)
                elif sample.name == "prerank_request_seconds_bucket":
                    below[float(sample.labels["le"])] += int(sample.value)
        reached = [below[bound] for bound in SECONDS] + [below[float("inf")]]
        counts = [high - low for low, high in zip([0, *reached], reached, strict=False)]
        return cls(dict(answered), list(SECONDS), counts)
