"""What a person wants to see of a service: what it serves, how it does, some of its items and their titles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prerank import __version__
from prerank.publish.generation import Generation
from prerank.service.engine import Engine
from prerank.service.http.body import Bodies
from prerank.service.messages import bad_request, decode
from prerank.service.metrics import Numbers
from prerank.serving.request import Id
from prerank.serving.sample import sample

JSON = "application/json"
MOST = 200  # items of a sample


class InputField(msgspec.Struct, frozen=True):
    """A field of a request."""

    name: str
    kind: Literal["categorical", "multi", "numeric"]


class InputFields(msgspec.Struct, frozen=True):
    """The fields that the model reads of a request."""

    user: list[InputField]
    context: list[InputField]
    pairs: Annotated[list[InputField], Meta(description="one value a candidate")]
    history: Annotated[list[InputField], Meta(description="of past records; where ids do not do")]
    history_ids: Annotated[bool, Meta(description="whether a history may be a list of item ids")]


class StoreFacts(msgspec.Struct, frozen=True):
    """The item store."""

    items: Annotated[int, Meta(description="rows, without upserted ones")]
    upserted: Annotated[int, Meta(description="rows that came since by upserts")]
    bytes: Annotated[int, Meta(description="of rows, behaviours and the table of ids")]
    precision: str
    row_bytes: Annotated[int, Meta(description="of one item's row")]
    shared: Annotated[bool | None, Meta(description="whether rows come from the shared store; null without one")]


class Latency(msgspec.Struct, frozen=True):
    """Responses to ranking requests by the time that they took."""

    bounds: Annotated[list[float], Meta(description="upper bounds in seconds; the last class has none")]
    counts: Annotated[list[int], Meta(description="responses in each class, one more than bounds")]


class Status(msgspec.Struct, frozen=True):
    """What is served, and how it goes."""

    status: Literal["ready", "starting", "draining"]
    version: str
    generation: str | None
    model: str | None
    fields: InputFields | None
    store: StoreFacts | None
    answered: Annotated[dict[str, int], Meta(description="responses to ranking requests, by status")]
    latency: Latency


class Item(msgspec.Struct, frozen=True):
    """An item of the catalogue."""

    id: Id
    title: str | None


class Items(msgspec.Struct, frozen=True):
    """Some items, drawn anew each time."""

    items: Annotated[list[Item], Meta(description="none where ids are texts and the schema names no title")]
    generation: str


class TitlesRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Items whose titles are wanted."""

    ids: list[int | str]


class Titles(msgspec.Struct, frozen=True):
    """A title for each id; null where there is none, or no such item."""

    titles: list[str | None]
    generation: str


TITLES = msgspec.json.Decoder(TitlesRequest)


class Overview:
    """GET /v1/status and /v1/items, POST /v1/titles."""

    def __init__(self, engine: Engine, bodies: Bodies) -> None:
        self.engine = engine
        self.bodies = bodies

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/v1/status", self.status),
            Route("/v1/items", self.items),
            Route("/v1/titles", self.titles, methods=["POST"]),
        ]

    async def status(self, _: Request) -> Response:
        """What is served, and how it goes."""
        engine = self.engine
        generation = engine.live.ranker().generation if engine.live.generation else None
        numbers = Numbers.read(engine.metrics)
        status: Literal["ready", "starting", "draining"] = "draining" if engine.live.draining else "starting"
        return _json(
            Status(
                status="ready" if engine.ready else status,
                version=__version__,
                generation=generation.name if generation else None,
                model=generation.bundle.name if generation else None,
                fields=_fields(generation) if generation else None,
                store=_facts(generation, engine.shared.up if engine.shared else None) if generation else None,
                answered=numbers.answered,
                latency=Latency(numbers.bounds, numbers.counts),
            )
        )

    async def items(self, request: Request) -> Response:
        """Some items of the catalogue."""
        count = request.query_params.get("count", "50")
        if not (count.isascii() and count.isdecimal() and len(count) < 6 and 1 <= int(count) <= MOST):
            raise bad_request(f"count: expected a whole number from 1 to {MOST}, got {count[:20]!r}")
        ranker = self.engine.live.ranker()

        def work() -> bytes:
            drawn = sample(ranker.generation.store, int(count), np.random.default_rng())
            return msgspec.json.encode(Items([Item(*each) for each in drawn], ranker.generation.name))

        return _json(await self._do(work, request))

    async def titles(self, request: Request) -> Response:
        """The titles of items."""
        engine = self.engine
        ids = decode(TITLES, await self.bodies.read(request, (JSON,))).ids
        if len(ids) > engine.config.limits.candidates:
            raise bad_request(f"ids: has {len(ids)} entries, {engine.config.limits.candidates} are allowed")
        ranker = engine.live.ranker()

        def work() -> bytes:
            found = ranker.titles(ids)
            return msgspec.json.encode(Titles([found.get(item) for item in ids], ranker.generation.name))

        return _json(await self._do(work, request))

    async def _do(self, work: Callable[[], bytes], request: Request) -> bytes:
        return await self.engine.do(work, request.scope["arrived"], None, client=request.scope.get("presence"))


def _fields(generation: Generation) -> InputFields:
    encoder = generation.bundle.encoder
    user, context, pairs, history = (
        [InputField(field.name, field.kind) for field in encoder.fields(side)]
        for side in ("user", "context", "pair", "history")
    )
    if all(field.name != encoder.schema.user_id for field in user):  # is accepted, though not read
        user = [InputField(encoder.schema.user_id, "categorical"), *user]
    return InputFields(user, context, pairs, history, generation.store.behaviours is not None)


def _facts(generation: Generation, shared: bool | None) -> StoreFacts:
    store = generation.store
    return StoreFacts(
        items=len(store),
        upserted=store.updates.overlay.count if store.updates else 0,
        bytes=store.nbytes,
        precision=store.precision,
        row_bytes=store.rows.nbytes // max(1, len(store)),
        shared=shared,
    )


def _json(content: Any) -> Response:
    return Response(content if isinstance(content, bytes) else msgspec.json.encode(content), media_type=JSON)
