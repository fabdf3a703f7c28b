"""The native protocol: raw features in JSON, ranked ids out."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prerank.service.engine import Engine, soft_deadline
from prerank.service.http.body import Bodies
from prerank.service.http.gate import Endpoint
from prerank.service.messages import (
    BatchAnswer,
    BatchRequest,
    RankRequest,
    answer_of,
    bad_request,
    check_size,
    decode,
)

JSON = "application/json"
ONE, MANY = msgspec.json.Decoder(RankRequest), msgspec.json.Decoder(BatchRequest)


class Native:
    """POST /v1/rank and /v1/rank:batch."""

    def __init__(self, engine: Engine, bodies: Bodies) -> None:
        self.engine = engine
        self.bodies = bodies

    def routes(self) -> list[Route]:
        """Where they are."""
        return [Route(path, endpoint, methods=["POST"]) for path, endpoint in self.ranking().items()]

    def ranking(self) -> dict[str, Endpoint]:
        """Those that rank."""
        return {"/v1/rank": self.rank, "/v1/rank:batch": self.rank_batch}

    async def rank(self, request: Request) -> Response:
        """Order the candidates of one request."""
        engine = self.engine
        body = await self.bodies.read_if_room(request, (JSON,), engine.desk)
        with engine.tracing.span("decode"):
            message = decode(ONE, body)
        asked = message.asked()
        check_size(asked, engine.config.limits)
        until = soft_deadline(request.scope["arrived"], message.soft_deadline_ms, message.deadline_ms)
        ranker = engine.live.ranker()

        def work() -> bytes:
            ranked = engine.rank(ranker, asked, until)
            with engine.tracing.span("encode"):
                return msgspec.json.encode(answer_of(ranked, len(asked.candidates)))

        arrived, client = request.scope["arrived"], request.scope.get("presence")
        return _json(await engine.do(work, arrived, message.deadline_ms, client=client))

    async def rank_batch(self, request: Request) -> Response:
        """Order the candidates of several requests; all are answered or none."""
        engine = self.engine
        body = await self.bodies.read_if_room(request, (JSON,), engine.desk)
        with engine.tracing.span("decode"):
            message = decode(MANY, body, requests=RankRequest)
        count, allowed = len(message.requests), engine.config.limits.batch
        if count > allowed:
            raise bad_request(f"requests: has {count} entries, {allowed} are allowed")
        every = [one.asked() for one in message.requests]
        for number, one in enumerate(every):
            check_size(one, engine.config.limits, f"requests[{number}].")
            if message.requests[number].deadline_ms is not None:
                raise bad_request(f"requests[{number}].deadline_ms: a batch has one deadline, beside requests")
            if message.requests[number].soft_deadline_ms is not None:
                raise bad_request(f"requests[{number}].soft_deadline_ms: a batch is answered as a whole; it has none")
        ranker = engine.live.ranker()

        def work() -> bytes:
            answers = engine.rank_many(ranker, every)
            with engine.tracing.span("encode"):
                sent = [answer_of(ranked, len(one.candidates)) for one, ranked in zip(every, answers, strict=True)]
                return msgspec.json.encode(BatchAnswer(sent, ranker.generation.name))

        arrived, client = request.scope["arrived"], request.scope.get("presence")
        return _json(await engine.do(work, arrived, message.deadline_ms, count, client))


def _json(body: bytes) -> Response:
    return Response(body, media_type=JSON)
