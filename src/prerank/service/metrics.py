"""What Prometheus reads at /metrics. Counters belong to one service; nothing is registered globally."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
SIZES = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


RANKING = ("rank", "rank_batch", "infer", "ModelInfer")
"""The endpoints and procedures whose responses are rankings."""


class Metrics:
    """The service's numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
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
        self.loads = self._counter("generation_loads", "Attempts to load a generation", "result")
        self.generation = self._gauge("generation_info", "1 for the generation that is served", "generation", "model")
        self.ready = self._gauge("ready", "1 while requests are welcome")
        self.items = self._gauge("items", "Rows of the item store, without updates")
        self.jobs = self._gauge("jobs", "Requests that wait for a thread or are being scored")
        for reason in ("queue full", "deadline"):
            self.refused.labels(reason)
        for result in ("loaded", "refused"):
            self.loads.labels(result)

    def serves(self, generation: str, model: str, items: int) -> None:
        """Say which generation answers from now on."""
        self.generation.clear()
        self.generation.labels(generation, model).set(1)
        self.items.set(items)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"prerank_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"prerank_{name}", what, labels, registry=self.registry)

    def _seconds(self, name: str, what: str) -> Histogram:
        return Histogram(f"prerank_{name}", what, registry=self.registry, buckets=SECONDS)


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
        for family in metrics.registry.collect():
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
