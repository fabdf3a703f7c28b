"""The application: every endpoint behind the gate."""

from __future__ import annotations

from pathlib import Path

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from prerank.service.engine import Engine
from prerank.service.http.body import Bodies
from prerank.service.http.gate import Gate
from prerank.service.http.native import JSON, Native
from prerank.service.http.openapi import openapi
from prerank.service.http.overview import Overview
from prerank.service.http.page import page_routes
from prerank.service.messages import Health
from prerank.service.open.inference import OpenInference
from prerank.service.settings import ServiceConfig


class Service:
    """A published directory as an ASGI application, and what it is made of."""

    def __init__(
        self, directory: Path, config: ServiceConfig, token: bytes | None = None, fallback: str | None = None
    ) -> None:
        self.config = config
        self.token = token
        self.engine = Engine(directory, config, fallback)
        bodies = Bodies(config)
        native, open_inference = Native(self.engine, bodies), OpenInference(self.engine, bodies)
        self._description = msgspec.json.encode(openapi(config.name, token is not None))
        routes = [
            *native.routes(),
            *open_inference.routes(),
            *Overview(self.engine, bodies).routes(),
            *page_routes(),
            Route("/healthz/live", self.is_live),
            Route("/healthz/ready", self.is_ready),
            Route("/metrics", self.numbers),
            Route("/openapi.json", self.description),
        ]
        ranking = {**native.ranking(), **open_inference.ranking()}
        self.application = Gate(Router(routes, redirect_slashes=False), self.engine, token, ranking)

    async def is_live(self, _: Request) -> Response:
        """The process answers."""
        return _health(200, Health("live", self.engine.live.generation))

    async def is_ready(self, _: Request) -> Response:
        """A generation is loaded and warm, in every worker at the start, and the process is not about to end."""
        live = self.engine.live
        if self.engine.ready:
            return _health(200, Health("ready", live.generation))
        return _health(503, Health("draining" if live.draining else "starting", live.generation))

    async def numbers(self, _: Request) -> Response:
        """What Prometheus reads."""
        return Response(self.engine.metrics.text(self.engine.group), media_type=CONTENT_TYPE_LATEST)

    async def description(self, _: Request) -> Response:
        """The OpenAPI document."""
        return Response(self._description, media_type=JSON)


def _health(status: int, health: Health) -> Response:
    return Response(msgspec.json.encode(health), status, media_type=JSON)
