"""The gRPC server: what every call passes, as the gate and the bodies do for HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from time import perf_counter
from typing import Any, Final

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read at import: the library's own lines on stderr are not JSON

import grpc
from google.protobuf.message import DecodeError

from prerank.errors import ConfigError, RequestError
from prerank.service.engine import Engine
from prerank.service.http.gate import check_token
from prerank.service.messages import bad_request
from prerank.service.open.procedures import SERVICE, Call, OpenInferenceRpc, Procedure
from prerank.service.open.protobuf import CLASSES
from prerank.service.refusal import RETRY, RefusedError, TooLateError
from prerank.service.settings import ServiceConfig, address_of
from prerank.service.tls import Certificates, Loaded

CODES: Final[dict[int, Any]] = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.REQUEST_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}
LONGEST = 500  # characters of a message: a client refuses trailers of more than 8 KB
LARGEST = 2**31 - 1  # of the library's settings

log = logging.getLogger(__name__)


class RpcServer:
    """Takes calls in; starts and ends within a running event loop."""

    def __init__(self, engine: Engine, token: bytes | None, certificates: Certificates | None = None) -> None:
        self.engine = engine
        self.token = token
        self.certificates = certificates
        self._started = False

    async def start(self) -> int:
        """Listen.

        Returns:
            the port.

        Raises:
            ConfigError: the address is not free.
        """
        config = self.engine.config
        # So many messages may arrive at a time that together they are within the bound of HTTP's bodies.
        self._arriving = asyncio.Semaphore(max(1, config.buffer_bytes // config.limits.body_bytes))
        self._server = grpc.aio.server(options=_options(config), maximum_concurrent_rpcs=config.connections)
        procedures = OpenInferenceRpc(self.engine).procedures()
        handlers = {
            # Of a stream, so that the token is looked at before the one message is taken in, and not for ever.
            name: grpc.stream_unary_rpc_method_handler(self._handler(name, procedure))
            for name, procedure in procedures.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            port = self._add_port(address_of(config.host, config.grpc_port or 0))
        except RuntimeError:
            raise ConfigError(f"cannot listen at {config.host}, grpc_port {config.grpc_port}") from None
        self._started = True
        await self._server.start()
        return port

    def _add_port(self, address: str) -> int:
        if self.certificates is None:
            return int(self._server.add_insecure_port(address))
        return int(self._server.add_secure_port(address, _credentials(self.certificates)))

    async def stop(self) -> None:
        """Take no more calls in, and answer those in flight."""
        if self._started:
            await self._server.stop(self.engine.config.grace_seconds)

    def _handler(self, name: str, procedure: Procedure) -> Callable[[Any, Any], Awaitable[bytes]]:
        async def handle(_: Any, context: Any) -> bytes:
            begun = perf_counter()
            code = grpc.StatusCode.CANCELLED  # unless it comes to an end here
            answer = b""
            with self.engine.tracing.request("gRPC", _headers(context)) as call:
                try:
                    answer = await self._answer(procedure, context, begun)
                    code = grpc.StatusCode.OK
                except Exception as error:
                    code = refuse(context, error)
                finally:
                    self._note(name, code.name, perf_counter() - begun)
                    call.end(f"{SERVICE}/{name}", code.name, self.engine.live.generation)
            return answer

        return handle

    async def _answer(self, procedure: Procedure, context: Any, arrived: float) -> bytes:
        left = context.time_remaining()
        if procedure.protected:
            given = [value.encode() for name, value in context.invocation_metadata() if name == "authorization"]
            check_token(given, self.token)
        if procedure.queued:
            self.engine.desk.check_room()  # before anything is taken in
        message = await self._message(procedure.takes, context) if procedure.takes else None
        answer = await procedure.answer(Call(message, arrived, left))
        return bytes(answer.SerializeToString())

    async def _message(self, kind: str, context: Any) -> Any:
        limits = self.engine.config.limits
        try:
            async with asyncio.timeout(limits.body_seconds), self._arriving:
                raw = await context.read()
        except TimeoutError:
            message = f"body: did not arrive within {limits.body_seconds:g} seconds"
            raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, message) from None
        if raw is grpc.aio.EOF:
            message = f"body: is missing, or more than {limits.body_bytes} bytes"
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        try:
            return CLASSES[kind].FromString(raw)
        except DecodeError:
            raise bad_request("body: is not a message of the open protocol, or it is compressed") from None

    def _note(self, name: str, code: str, seconds: float) -> None:
        self.engine.metrics.respond(name, code, seconds)
        if self.engine.config.access_log:
            path = f"/{SERVICE}/{name}"
            facts = {"method": "POST", "path": path, "status": code, "ms": round(1000 * seconds, 3)}
            log.info("request", extra={"facts": facts})


def _credentials(certificates: Certificates) -> Any:
    """Of each new connection by the files as they are."""
    used = certificates.current()

    def configuration(loaded: Loaded) -> Any:
        return grpc.ssl_server_certificate_configuration([loaded.pair], loaded.client_ca)

    def renewed() -> Any:
        nonlocal used
        before, used = used, certificates.current()
        return None if used is before else configuration(used)

    return grpc.dynamic_ssl_server_credentials(
        configuration(used), renewed, require_client_authentication=used.client_ca is not None
    )


def _options(config: ServiceConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", int(config.workers > 1)),  # a socket for each worker: the library opens its own
        ("grpc.max_receive_message_length", min(config.limits.body_bytes, LARGEST)),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", min(config.limits.head_bytes, LARGEST)),
        ("grpc.absolute_max_metadata_size", min(config.limits.head_bytes, LARGEST)),
        # Compressed messages are not opened: the bound of their size does not hold for what comes out of them.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.per_message_decompression", 0),
        ("grpc.max_connection_idle_ms", min(1000 * config.keep_alive_seconds, LARGEST)),
        ("grpc.server_handshake_timeout_ms", min(int(1000 * config.limits.head_seconds), LARGEST)),
    ]


def refuse(context: Any, error: Exception) -> Any:
    """Say why there is no answer.

    Args:
        context: of the call.
        error: what was raised instead.

    Returns:
        the code.
    """
    message = str(error)
    match error:
        case TooLateError():
            code = grpc.StatusCode.DEADLINE_EXCEEDED
        case RefusedError():
            code = CODES[error.status]
        case RequestError():
            code = grpc.StatusCode.INVALID_ARGUMENT
        case _:
            log.error("fault while answering", exc_info=error)
            code, message = grpc.StatusCode.INTERNAL, "a fault of the service; its log says more"
    context.set_code(code)
    context.set_details(" ".join(message.split())[:LONGEST])
    if isinstance(error, RefusedError) and RETRY in error.headers:
        context.set_trailing_metadata(((RETRY.lower(), error.headers[RETRY]),))
    return code


def _headers(context: Any) -> Iterator[tuple[bytes, bytes]]:
    """The metadata of a call."""
    for name, value in context.invocation_metadata() or ():
        yield name.encode(), value.encode() if isinstance(value, str) else value
