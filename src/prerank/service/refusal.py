"""Why a request is not answered: each reason has a status, and a message that names the field and the fix."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from math import ceil

from starlette.responses import Response

from prerank.errors import PrerankError

RETRY = "Retry-After"
NOT_HTTP = "request: not valid HTTP/1.1"


class RefusedError(PrerankError):
    """A request is not answered as it stands, or not now.

    Attributes:
        status: of the response.
        headers: to add to it.
    """

    def __init__(self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


class TooLateError(RefusedError):
    """A request is not answered because its deadline has passed, or cannot be met."""


def busy(status: HTTPStatus, message: str, seconds: float) -> RefusedError:
    """A refusal that says when to come again, in whole seconds as the header wants them."""
    return RefusedError(status, message, later(seconds))


def later(seconds: float) -> dict[str, str]:
    """The header that says so."""
    return {RETRY: str(max(1, ceil(seconds)))}


def error_body(message: str) -> bytes:
    """The body of every response that is an error: one line."""
    return json.dumps({"error": " ".join(message.split())}).encode()


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """A response that says what is wrong."""
    return Response(error_body(message), status, headers, "application/json")
