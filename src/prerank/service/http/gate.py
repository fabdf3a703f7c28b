"""What every request passes: its token, its size, its error, its place in the metrics and in the log."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from time import perf_counter, sleep

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prerank.errors import RequestError
from prerank.service.engine import Engine
from prerank.service.http.page import FILES
from prerank.service.refusal import NOT_HTTP, RefusedError, error_response

OPEN = ("/healthz/live", "/healthz/ready", "/v2/health/live", "/v2/health/ready", *FILES)
"""Where no token is asked for: probes have none, and a browser shows the page before one can be typed into it."""

REST = 0.002  # seconds

Endpoint = Callable[[Request], Awaitable[Response]]

log = logging.getLogger(__name__)


def check_token(values: Sequence[bytes], token: bytes | None) -> None:
    """Refuse who does not show the token, if there is one.

    Args:
        values: of all headers that are called authorization.
        token: the token.

    Raises:
        RefusedError: it is missing or wrong.
    """
    kind, _, shown = (values[0] if len(values) == 1 else b"").partition(b" ")
    if token is not None and (kind.lower() != b"bearer" or not hmac.compare_digest(shown.strip(), token)):
        message = "authorization: send the header 'Authorization: Bearer TOKEN'"
        raise RefusedError(HTTPStatus.UNAUTHORIZED, message, {"WWW-Authenticate": "Bearer"})


def check_head(scope: Scope, allowed: int) -> None:
    """Refuse another version of HTTP, and more than so many bytes of request line and headers.

    Raises:
        RefusedError: so it is.
    """
    if scope["http_version"] not in ("1.0", "1.1"):
        raise RefusedError(HTTPStatus.BAD_REQUEST, NOT_HTTP, {"Connection": "close"})
    given: list[tuple[bytes, bytes]] = scope["headers"]
    if len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(n) + len(v) + 4 for n, v in given) > allowed:
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise RefusedError(status, f"headers: more than {allowed} bytes of request line and headers")


def answer_to(error: Exception) -> ASGIApp:
    """The response to a request that has failed."""
    match error:
        case RefusedError():
            return error_response(error.status, str(error), error.headers)
        case RequestError():
            return error_response(HTTPStatus.BAD_REQUEST, str(error))
        case HTTPException(status_code=HTTPStatus.NOT_FOUND):
            return error_response(HTTPStatus.NOT_FOUND, "path: nothing is here; see /openapi.json")
        case HTTPException(status_code=HTTPStatus.METHOD_NOT_ALLOWED, headers=headers):
            allowed = ", ".join(sorted(dict(headers or {}).get("Allow", "").split(", ")))  # a set, of no order
            return error_response(error.status_code, f"method: not allowed here; use {allowed}", {"Allow": allowed})
    log.error("fault while answering", exc_info=error)
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of the service; its log says more")


class Gate:
    """The outermost application: whatever happens inside, one response leaves, with the right status."""

    def __init__(self, inner: ASGIApp, engine: Engine, token: bytes | None, ranking: Mapping[str, Endpoint]) -> None:
        """Let requests in.

        Args:
            inner: what answers them.
            engine: behind it.
            token: that they have to show; None if there is none.
            ranking: the endpoints that rank, by their paths; they are asked by POST, and not looked for.
        """
        self.inner = inner
        self.ranking = ranking
        self.engine = engine
        self.token = token
        self._resting = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; there are no other connections than those of HTTP."""
        assert scope["type"] == "http"
        begun = scope["arrived"] = perf_counter()
        with self.engine.tracing.request("HTTP", scope["headers"]) as call:
            status = await self._pass(scope, receive, send)
            name: str = getattr(scope.get("endpoint"), "__name__", "none")
            self._note(scope, name, status, perf_counter() - begun)
            call.end(f"{scope['method']} {name}", status, self.engine.live.generation)

    def at_once(self, scope: Scope) -> RefusedError | None:
        """Why a ranking request whose head has arrived is refused whatever its body says, if it is.

        Where more requests come than can be answered, most are refused, and what that costs is missing for answers: so
        nothing is made for such a request, neither a task nor a route, and its body is not kept. The loop then rests,
        so that it refuses several at a time: each time it wakes up, the thread that scores may have to wait for the
        interpreter's lock and to be woken up itself, which takes longer than a refusal.
        """
        engine = self.engine
        if not engine.desk.full or engine.config.tracing or engine.live.draining:
            return None
        endpoint, begun = self._ranks(scope), perf_counter()
        if endpoint is None:
            return None
        try:
            self._check(scope)
        except RefusedError:
            return None  # which is said in the usual way
        refusal = engine.desk.no_room()
        self._note(scope, endpoint.__name__, refusal.status, perf_counter() - begun)
        if not self._resting:
            self._resting = True
            asyncio.get_running_loop().call_soon(self._rest)
        return refusal

    def _rest(self) -> None:
        sleep(REST)
        self._resting = False

    def _ranks(self, scope: Scope) -> Endpoint | None:
        """What answers a ranking request; None for others, and for rare ways to ask."""
        return self.ranking.get(scope["path"]) if scope["method"] == "POST" else None

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer a request: the status."""
        scope["app"] = self  # Starlette's router then raises what it would otherwise answer in plain text
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.engine.live.draining:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        try:
            self._check(scope)
            endpoint = self._ranks(scope)
            if endpoint is None:
                await self.inner(scope, receive, sending)
            else:
                scope["endpoint"] = endpoint
                await (await endpoint(Request(scope, receive)))(scope, receive, sending)
        except ClientDisconnect:
            status = 499  # as others note it; nobody reads this answer
        except Exception as error:
            if status:
                log.exception("fault after the response had begun")
                raise
            await answer_to(error)(scope, receive, sending)
        return status

    def _check(self, scope: Scope) -> None:
        """Refuse what the head alone makes wrong."""
        check_head(scope, self.engine.config.limits.head_bytes)
        if scope["path"] not in OPEN:
            check_token([value for name, value in scope["headers"] if name == b"authorization"], self.token)

    def _note(self, scope: Scope, name: str, status: int, seconds: float) -> None:
        """Count and log a response of an endpoint."""
        self.engine.metrics.respond(name, str(status), seconds)
        if self.engine.config.access_log:
            facts = {"method": scope["method"], "path": scope["path"], "status": status, "ms": round(1000 * seconds, 3)}
            log.info("request", extra={"facts": facts})
