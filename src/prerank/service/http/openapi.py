"""The page at /openapi.json, made from the types that are decoded and encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from prerank import __version__
from prerank.service.http.overview import MOST, Items, Status, Titles, TitlesRequest
from prerank.service.http.page import FILES
from prerank.service.messages import BatchAnswer, BatchRequest, Error, Health, RankAnswer, RankRequest
from prerank.service.open import messages as v2

REFUSED = {
    "400": "the request is wrong; the message names the field",
    "401": "the token is missing or wrong",
    "404": "this model or version is not served",
    "408": "the body did not arrive in time",
    "413": "the body is too large",
    "415": "the body is of another type, or it is compressed",
    "429": "the queue is full",
    "431": "request line and headers are too large",
    "500": "a fault of the service",
    "503": "the service is starting, or the deadline cannot be met",
}
LATER = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}
BODY = ("400", "401", "408", "413", "415", "429", "431", "500", "503")
HEAD = ("400", "401", "431", "500")
COUNT = {"name": "count", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": MOST, "default": 50}}
JSON, OCTETS = "application/json", "application/octet-stream"
TYPES: tuple[type[msgspec.Struct], ...] = (
    RankRequest,
    RankAnswer,
    BatchRequest,
    BatchAnswer,
    Error,
    Health,
    Status,
    Items,
    TitlesRequest,
    Titles,
    v2.InferRequest,
    v2.InferAnswer,
    v2.ModelMetadata,
    v2.ServerMetadata,
    v2.Live,
    v2.Ready,
    v2.ModelReady,
)


def openapi(model: str, protected: bool) -> dict[str, Any]:
    """The document.

    Args:
        model: its name in the open protocol.
        protected: whether a token is asked for.
    """
    _, schemas = msgspec.json.schema_components(TYPES, ref_template="#/components/schemas/{name}")
    components: dict[str, Any] = {"schemas": schemas}
    paths = {
        "/v1/rank": _post("rank", RankRequest, RankAnswer),
        "/v1/rank:batch": _post("rank_batch", BatchRequest, BatchAnswer),
        "/v1/status": _get("status", Status),
        "/v1/items": _get("items", Items, unless=Error, also=("429",)),
        "/v1/titles": _post("titles", TitlesRequest, Titles),
        "/": _page("page", "text/html", "string"),
        "/healthz/live": _get("live", Health),
        "/healthz/ready": _get("ready", Health, unless=Health),
        "/metrics": _page("metrics", "text/plain", "string"),
        "/openapi.json": _page("description", JSON, "object"),
        "/v2": _get("v2", v2.ServerMetadata),
        "/v2/health/live": _get("v2_live", v2.Live),
        "/v2/health/ready": _get("v2_ready", v2.Ready, unless=v2.Ready),
    }
    for place, suffix in (("/v2/models/{name}", ""), ("/v2/models/{name}/versions/{version}", "_version")):
        paths[place] = _get(f"v2_model{suffix}", v2.ModelMetadata, unless=Error, also=("404",))
        paths[f"{place}/ready"] = _get(f"v2_model_ready{suffix}", v2.ModelReady, unless=v2.ModelReady, also=("404",))
        paths[f"{place}/infer"] = _post(f"v2_infer{suffix}", v2.InferRequest, v2.InferAnswer, OCTETS, also=("404",))
    for place, methods in paths.items():
        names = [part[1:-1] for part in place.split("/") if part.startswith("{")]
        for operation in methods.values():
            operation["parameters"] = [_path_parameter(name, model) for name in names]
            if protected and "/health" not in place and place not in FILES:
                operation["security"] = [{"token": []}]
    paths["/v1/items"]["get"]["parameters"] = [COUNT]
    if protected:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "prerank", "version": __version__, "description": "Orders candidates for a user."},
        "paths": paths,
        "components": components,
    }


def _post(
    name: str, takes: type[Any], gives: type[Any], media: str | None = None, also: Sequence[str] = ()
) -> dict[str, Any]:
    body = _content(takes)
    answer = _answer("answered", gives)
    if media is not None:  # with tensors in bytes behind the JSON part, or an answer like that
        for content in (body, answer["content"]):
            content[media] = {"schema": {"type": "string", "format": "binary"}}
    return {"post": _operation(name, takes, {"200": answer, **_refusals(*BODY, *also)}, body)}


def _get(name: str, gives: type[Any], unless: type[Any] | None = None, also: Sequence[str] = ()) -> dict[str, Any]:
    answers = {"200": _answer("yes", gives), **_refusals(*HEAD, *also)}
    if unless is not None:
        answers["503"] = _answer("starting or draining", unless)
    return {"get": _operation(name, gives, answers)}


def _page(name: str, media: str, kind: str) -> dict[str, Any]:
    page = {"description": name, "content": {media: {"schema": {"type": kind}}}}
    return {"get": {"operationId": name, "summary": f"The {name}.", "responses": {"200": page, **_refusals(*HEAD)}}}


def _operation(name: str, of: type[Any], answers: dict[str, Any], body: dict[str, Any] | None = None) -> dict[str, Any]:
    operation = {"operationId": name, "summary": (of.__doc__ or "").strip(), "responses": answers}
    return operation if body is None else {**operation, "requestBody": {"required": True, "content": body}}


def _path_parameter(name: str, model: str) -> dict[str, Any]:
    """One model is served; its version is another one with each generation."""
    served = {"enum": [model]} if name == "name" else {}
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", **served}}


def _refusals(*statuses: str) -> dict[str, Any]:
    refusals = {status: _answer(REFUSED[status], Error) for status in statuses}
    for status in {"429", "503"} & set(refusals):
        refusals[status]["headers"] = LATER
    return refusals


def _answer(what: str, gives: type[Any]) -> dict[str, Any]:
    return {"description": what, "content": _content(gives)}


def _content(of: type[Any]) -> dict[str, Any]:
    return {JSON: {"schema": {"$ref": f"#/components/schemas/{of.__name__}"}}}
