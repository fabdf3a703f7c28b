"""The page at /openapi.json, made from the types that requests are decoded with."""

from __future__ import annotations

from typing import Any

import msgspec

from prerank import __version__
from prerank.service.messages import BatchAnswer, BatchRequest, Error, Health, RankAnswer, RankRequest

REFUSED = {
    "400": "the request is wrong; the message names the field",
    "401": "the token is missing or wrong",
    "408": "the body did not arrive in time",
    "413": "the body is too large",
    "415": "the body is not JSON, or it is compressed",
    "429": "the queue is full",
    "431": "request line and headers are too large",
    "500": "a fault of the service",
    "503": "the service is starting, or the deadline cannot be met",
}
LATER = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}


def openapi(protected: bool) -> dict[str, Any]:
    """The document.

    Args:
        protected: whether a token is asked for.
    """
    types = (RankRequest, RankAnswer, BatchRequest, BatchAnswer, Error, Health)
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    components: dict[str, Any] = {"schemas": schemas}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "prerank", "version": __version__, "description": "Orders candidates for a user."},
        "paths": {
            "/v1/rank": {"post": _post("rank", RankRequest, RankAnswer)},
            "/v1/rank:batch": {"post": _post("rank_batch", BatchRequest, BatchAnswer)},
            "/healthz/live": {"get": _get("live", Health, "431")},
            "/healthz/ready": {"get": _get("ready", Health, "431")},
            "/metrics": {"get": _text("metrics", "text/plain")},
            "/openapi.json": {"get": _text("description", "application/json")},
        },
        "components": components,
    }
    document["paths"]["/healthz/ready"]["get"]["responses"]["503"] = _answer("starting or draining", Health)
    if protected:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, methods in document["paths"].items():
            if not path.startswith("/healthz/"):
                for operation in methods.values():
                    operation["security"] = [{"token": []}]
    return document


def _post(name: str, takes: type[Any], gives: type[Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": (takes.__doc__ or "").strip(),
        "requestBody": {"required": True, "content": {"application/json": {"schema": _reference(takes)}}},
        "responses": {"200": _answer("ranked", gives), **_refusals(*REFUSED)},
    }


def _get(name: str, gives: type[Any], *refused: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": (gives.__doc__ or "").strip(),
        "responses": {"200": _answer("yes", gives), **_refusals(*refused)},
    }


def _text(name: str, media: str) -> dict[str, Any]:
    content = {media: {"schema": {"type": "object" if media.endswith("json") else "string"}}}
    return {
        "operationId": name,
        "summary": f"The service's {name}.",
        "responses": {"200": {"description": name, "content": content}, **_refusals("401", "431")},
    }


def _refusals(*statuses: str) -> dict[str, Any]:
    refusals = {status: _answer(REFUSED[status], Error) for status in statuses}
    for status in {"429", "503"} & set(refusals):
        refusals[status]["headers"] = LATER
    return refusals


def _answer(what: str, gives: type[Any]) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": _reference(gives)}}}


def _reference(of: type[Any]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{of.__name__}"}
