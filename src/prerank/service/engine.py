"""What the protocols share: the ranker, the queue, the limits, the metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

from prerank.errors import RequestError
from prerank.service.desk import Desk
from prerank.service.group.members import Alone, Group
from prerank.service.live import Live
from prerank.service.messages import bad_request
from prerank.service.metrics import Metrics
from prerank.service.presence import Presence
from prerank.service.refusal import RefusedError
from prerank.service.sampling import Sampler
from prerank.service.settings import ServiceConfig
from prerank.service.shared_rows import SharedRows
from prerank.service.tracing import OpenTelemetry, Tracing
from prerank.serving.preranker import PreRanker, Ranked
from prerank.serving.request import Request

T = TypeVar("T")


class Engine:
    """Everything behind the endpoints."""

    def __init__(self, directory: Path, config: ServiceConfig, fallback: str | None = None) -> None:
        self.config = config
        self.metrics = Metrics()
        self.tracing = OpenTelemetry() if config.tracing else Tracing()
        self.shared = None
        if config.redis is not None:
            self.shared = SharedRows(config.redis, config.redis_timeout_ms / 1000, config.threads, self.metrics)
        self.live = Live(directory, config, self.metrics, fallback, self.shared)
        self.group: Group = Alone(self.live.state, self.live.look_now)
        self.desk = Desk(config.threads, config.queue, self.metrics, self.tracing)
        self.sampler = Sampler(config, self.metrics)

    @property
    def ready(self) -> bool:
        """Whether requests are welcome."""
        return self.group.ready

    async def do(
        self,
        work: Callable[[], T],
        arrived: float,
        wanted: float | None,
        requests: int = 1,
        client: Presence | None = None,
    ) -> T:
        """Have a request answered by a thread of the desk.

        Args:
            work: what the thread does.
            arrived: when the request's headers had arrived, on the clock of ``perf_counter``.
            wanted: milliseconds that the request allows from then on; as many as the operator says if None.
            requests: how many places it takes.
            client: who waits for the answer, if that can be told.

        Raises:
            RefusedError: there is no room, or not enough time.
            ClientDisconnect: nobody waits for the answer any more.
        """
        milliseconds = self.config.deadline_ms if wanted is None else min(wanted, self.config.longest_deadline_ms)
        return await self.desk.do(work, arrived + milliseconds / 1000, requests, client)

    def ranker(self, model: str, version: str | None) -> PreRanker:
        """What answers a request of the open protocol, which names a model and perhaps a version.

        Raises:
            RefusedError: it is another model or version, or nothing is loaded yet.
        """
        if model != self.config.name:
            message = f"model {model!r}: is not served; models: {self.config.name}"
            raise RefusedError(HTTPStatus.NOT_FOUND, message)
        ranker = self.live.ranker()
        if version not in (None, ranker.generation.name):
            message = f"version {version!r}: is not served; versions: {ranker.generation.name}"
            raise RefusedError(HTTPStatus.NOT_FOUND, message)
        return ranker

    def rank(self, ranker: PreRanker, request: Request, until: float | None = None) -> Ranked:
        """Answer a request, in a thread of the desk.

        Raises:
            RequestError: it cannot be answered as it stands; the field is named.
        """
        with self.tracing.span("score"):
            ranked = ranker.answer(request, until)
        self._count(request, ranked)
        return ranked

    def rank_many(self, ranker: PreRanker, requests: Sequence[Request]) -> list[Ranked]:
        """Answer several requests together, in a thread of the desk.

        Raises:
            RequestError: one cannot be answered as it stands; the request and its field are named.
        """
        try:
            with self.tracing.span("score"):
                answers = ranker.rank_many(requests)
        except RequestError as error:
            raise RequestError(str(error).replace("]: ", "].", 1)) from None  # as all messages name fields
        for request, ranked in zip(requests, answers, strict=True):
            self._count(request, ranked)
        return answers

    def _count(self, request: Request, ranked: Ranked) -> None:
        self.metrics.candidates.observe(len(request.candidates))
        self.metrics.unknown.inc(len(ranked.unknown))
        self.metrics.unknown_history.inc(ranked.unknown_history)
        if ranked.degraded:
            self.metrics.degraded.inc()
        if ranked.unscored:
            self.metrics.partial.inc()
        self.sampler.offer(request, ranked)


def soft_deadline(arrived: float, soft: float | None, hard: float | None) -> float | None:
    """When scoring stops, on the clock of ``perf_counter``; None if it does not.

    Args:
        arrived: when the request's headers had arrived, on this clock.
        soft: milliseconds from then on, or None.
        hard: milliseconds that the request allows at most, or None if it does not say.

    Raises:
        RefusedError: the soft deadline would never be met.
    """
    if soft is None:
        return None
    if hard is not None and soft >= hard:
        raise bad_request(f"soft_deadline_ms: {soft:g} is not less than deadline_ms, {hard:g}")
    return arrived + soft / 1000
