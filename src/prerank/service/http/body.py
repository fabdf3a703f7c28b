"""Reading a request's body within its limits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

from starlette.requests import Request

from prerank.service.desk import Desk
from prerank.service.messages import bad_request
from prerank.service.refusal import RefusedError, busy
from prerank.service.settings import ServiceConfig


class Bodies:
    """All bodies that are arriving; together they are bounded, too."""

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self.held = 0

    async def read(self, request: Request, media: Sequence[str]) -> bytes:
        """The whole body.

        Args:
            request: the request.
            media: the types that it may be of; the empty one stands for none given.

        Raises:
            RefusedError: it is of another type, encoded, too large, or too slow.
        """
        self._check_head(request, media)
        parts: list[bytes] = []
        held = 0
        try:
            async with asyncio.timeout(self.config.limits.body_seconds):
                async for part in request.stream():
                    parts.append(part)
                    held += len(part)
                    self.held += len(part)
                    self._check_sizes(held)
        except TimeoutError:
            seconds = self.config.limits.body_seconds
            message = f"body: did not arrive within {seconds:g} seconds"
            raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, message, {"Connection": "close"}) from None
        finally:
            self.held -= held
        return b"".join(parts)

    async def read_if_room(self, request: Request, media: Sequence[str], desk: Desk) -> bytes:
        """The same, of a request that a desk has room for before its body arrives, and then.

        Raises:
            RefusedError: there is none, or the body is not as it may be.
        """
        desk.check_room()
        body = await self.read(request, media)
        desk.check_room()
        return body

    def _check_head(self, request: Request, media: Sequence[str]) -> None:
        given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if given not in media:
            message = f"content-type: expected {' or '.join(filter(None, media))}, got {given or 'none'}"
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            message = f"content-encoding: {encoding} is not supported; send the body as it is"
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)
        length = request.headers.get("content-length", "0")
        if not length.isdecimal():
            raise bad_request("content-length: expected a number of bytes")
        self._check_sizes(int(length))

    def _check_sizes(self, size: int) -> None:
        allowed = self.config.limits.body_bytes
        if size > allowed:
            message = f"body: more than {allowed} bytes; send fewer candidates, or several requests"
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        if self.held > self.config.buffer_bytes:
            raise busy(HTTPStatus.SERVICE_UNAVAILABLE, "too many bodies are arriving; come again", 1)
