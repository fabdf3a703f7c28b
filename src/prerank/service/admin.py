"""The operator's API: what is published, who serves what, and going back, at an address of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from socket import socket
from time import perf_counter
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from prerank.errors import ArtefactError, PrerankError
from prerank.publish.history import Published, history, previous, roll_back
from prerank.service.group.members import Group, Worker
from prerank.service.http.body import Bodies
from prerank.service.http.front import Front
from prerank.service.http.gate import answer_to, check_head, check_token
from prerank.service.messages import decode
from prerank.service.refusal import RefusedError
from prerank.service.settings import ServiceConfig
from prerank.service.tls import Certificates

JSON = "application/json"
LIVE = "/healthz/live"

log = logging.getLogger(__name__)


class Administered(Group, Protocol):
    """All workers, and a word to them."""

    @property
    def look_now(self) -> Callable[[], None]:
        """Has every worker look for a new generation, also at one that it has refused."""


class Generation(msgspec.Struct, frozen=True):
    """A generation.

    Attributes:
        name: of the generation.
        model: of which it is; null if its manifest is damaged.
        state: whether it is the current one, the one before it, or another.
        serving: numbers of the workers that serve it.
        refused: why a worker refused it.
    """

    name: str
    model: str | None
    state: str
    serving: list[int]
    refused: str | None


class Generations(msgspec.Struct, frozen=True):
    """All generations, the newest first."""

    current: str | None
    previous: str | None
    generations: list[Generation]


class Workers(msgspec.Struct, frozen=True):
    """How the workers are."""

    ready: bool
    workers: list[Worker]


class Switch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to go to."""

    generation: str


class Switched(msgspec.Struct, frozen=True):
    """What is the current generation now; workers follow.

    Attributes:
        generation: its name.
        number: of switches by this API since the service began, this one being the last.
    """

    generation: str
    number: int


SWITCH = msgspec.json.Decoder(Switch)


class Admin:
    """The application. One switch is made at a time."""

    def __init__(self, directory: Path, config: ServiceConfig, token: bytes, group: Administered) -> None:
        self.directory = directory
        self.config = config
        self.token = token
        self.group = group
        self._bodies = Bodies(config)
        self._turn = asyncio.Lock()
        self._switches = 0
        self._router = Router(
            [
                Route(LIVE, self.is_live),
                Route("/v1/generations", self.generations),
                Route("/v1/workers", self.workers),
                Route("/v1/rollback", self.rollback, methods=["POST"]),
                Route("/v1/switch", self.switch, methods=["POST"]),
                Route("/v1/reload", self.reload, methods=["POST"]),
            ],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        assert scope["type"] == "http"
        scope["app"], scope["arrived"] = self, perf_counter()
        try:
            check_head(scope, self.config.limits.head_bytes)
            if scope["path"] != LIVE:
                check_token([value for name, value in scope["headers"] if name == b"authorization"], self.token)
            await self._router(scope, receive, send)
        except Exception as error:
            await answer_to(error)(scope, receive, send)

    async def is_live(self, _: Request) -> Response:
        """The API answers."""
        return _json({"status": "live"})

    async def generations(self, _: Request) -> Response:
        """What is published, what is served, what was refused."""
        every = await asyncio.to_thread(_history, self.directory)
        workers = self.group.workers()
        refused = _refused(workers)
        before = previous(every, refused)

        def told(one: Published) -> Generation:
            state = "current" if one.current else "previous" if one.name == before else "other"
            serving = [worker.worker for worker in workers if worker.generation == one.name]
            return Generation(one.name, one.model, state, serving, refused.get(one.name))

        current = next((one.name for one in every if one.current), None)
        return _json(Generations(current, before, [told(one) for one in every]))

    async def workers(self, _: Request) -> Response:
        """How the workers are."""
        return _json(self._workers())

    async def rollback(self, request: Request) -> Response:
        """Go back to the generation before the current one, leaving out those that were refused."""
        await self._bodies.read(request, (JSON, ""))
        return await self._go(None)

    async def switch(self, request: Request) -> Response:
        """Go to a generation by its name."""
        wanted = decode(SWITCH, await self._bodies.read(request, (JSON,))).generation
        known = {one.name for one in await asyncio.to_thread(_history, self.directory)}
        if wanted not in known:
            raise RefusedError(HTTPStatus.NOT_FOUND, "generation: there is none of this name; see /v1/generations")
        return await self._go(wanted)

    async def reload(self, request: Request) -> Response:
        """Look for a new generation now."""
        await self._bodies.read(request, (JSON, ""))
        self.group.look_now()
        return _json(self._workers())

    async def _go(self, name: str | None) -> Response:
        async with self._turn:
            try:
                now = await asyncio.to_thread(roll_back, self.directory, name, _refused(self.group.workers()))
            except ArtefactError as error:
                raise RefusedError(HTTPStatus.CONFLICT, f"generation: {error}") from None
            self._switches += 1
            number = self._switches
        log.info("switched to generation %s", now)
        self.group.look_now()
        return _json(Switched(now, number))

    def _workers(self) -> Workers:
        return Workers(self.group.ready, self.group.workers())


@asynccontextmanager
async def administered(
    directory: Path,
    config: ServiceConfig,
    token: bytes | None,
    listener: socket | None,
    tls: Certificates | None,
    group: Administered,
) -> AsyncIterator[None]:
    """The API as long as the block lasts, if there is a listener."""
    if listener is None or token is None:
        yield
        return
    front = Front(Admin(directory, config, token, group), config, listener, tls)
    serving = asyncio.create_task(front.serve(sockets=[]))
    try:
        yield
    finally:
        front.should_exit = True
        await serving


def _history(directory: Path) -> list[Published]:
    try:
        return history(directory)
    except PrerankError as error:
        raise RefusedError(HTTPStatus.CONFLICT, f"generations: {error}") from None


def _refused(workers: list[Worker]) -> dict[str, str]:
    return {name: why for worker in workers for name, why in worker.refused.items()}


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type=JSON)
