"""The native protocol: raw features in JSON, ranked ids out."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prerank.errors import RequestError
from prerank.service.body import Bodies
from prerank.service.desk import Desk
from prerank.service.live import Live
from prerank.service.messages import (
    BatchAnswer,
    BatchRequest,
    RankAnswer,
    RankRequest,
    answer_of,
    bad_request,
    check_size,
    decode,
)
from prerank.service.metrics import Metrics
from prerank.service.settings import ServiceConfig
from prerank.serving.preranker import PreRanker

JSON = "application/json"
ONE, MANY = msgspec.json.Decoder(RankRequest), msgspec.json.Decoder(BatchRequest)


class Native:
    """POST /v1/rank and /v1/rank:batch."""

    def __init__(self, config: ServiceConfig, live: Live, desk: Desk, bodies: Bodies, metrics: Metrics) -> None:
        self.config = config
        self.live = live
        self.desk = desk
        self.bodies = bodies
        self.metrics = metrics

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/v1/rank", self.rank, methods=["POST"]),
            Route("/v1/rank:batch", self.rank_batch, methods=["POST"]),
        ]

    async def rank(self, request: Request) -> Response:
        """Order the candidates of one request."""
        message = decode(ONE, await self.bodies.read(request, JSON))
        check_size(message, self.config.limits)
        ranker = self.live.ranker()

        def work() -> bytes:
            return msgspec.json.encode(self._ranked(ranker, message))

        return _json(await self.desk.do(work, self.deadline(request, message.deadline_ms)))

    async def rank_batch(self, request: Request) -> Response:
        """Order the candidates of several requests; all are answered or none."""
        message = decode(MANY, await self.bodies.read(request, JSON))
        count, allowed = len(message.requests), self.config.limits.batch
        if count > allowed:
            raise bad_request(f"requests: has {count} entries, {allowed} are allowed")
        for number, one in enumerate(message.requests):
            check_size(one, self.config.limits, f"requests[{number}].")
            if one.deadline_ms is not None:
                raise bad_request(f"requests[{number}].deadline_ms: a batch has one deadline, beside requests")
        ranker = self.live.ranker()

        def work() -> bytes:
            answers = []
            for number, one in enumerate(message.requests):
                try:
                    answers.append(self._ranked(ranker, one))
                except RequestError as error:
                    raise RequestError(f"requests[{number}].{error}") from None
            return msgspec.json.encode(BatchAnswer(answers, ranker.generation.name))

        return _json(await self.desk.do(work, self.deadline(request, message.deadline_ms), count))

    def deadline(self, request: Request, wanted: float | None) -> float:
        """When a request's answer becomes worthless, on the clock of ``perf_counter``."""
        milliseconds = self.config.deadline_ms if wanted is None else min(wanted, self.config.longest_deadline_ms)
        arrived: float = request.scope.get("arrived", perf_counter())
        return arrived + milliseconds / 1000

    def _ranked(self, ranker: PreRanker, message: RankRequest) -> RankAnswer:
        ranked = ranker.rank(
            message.user,
            message.candidates,
            message.k,
            message.ranking,
            history=message.history,
            columns=message.columns,
            context=message.context,
            unknown=message.unknown,
        )
        self.metrics.candidates.observe(len(message.candidates))
        self.metrics.unknown.inc(len(ranked.unknown))
        self.metrics.unknown_history.inc(ranked.unknown_history)
        return answer_of(ranked, len(message.candidates))


def _json(body: Any) -> Response:
    return Response(body, media_type=JSON)
