"""Messages of the Open Inference Protocol v2, for decoding, encoding and the OpenAPI page."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

Parameters = dict[str, Any]


class InferInput(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A tensor of a request."""

    name: str
    shape: list[Annotated[int, Meta(ge=0)]]
    datatype: str
    parameters: Parameters = {}
    data: list[Any] | None = None


class InferOutput(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A tensor that is asked for."""

    name: str
    parameters: Parameters = {}


class InferRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A request; docs/serving.md names its tensors and parameters."""

    inputs: list[InferInput]
    id: str | None = None
    model_name: Annotated[str, Meta(description="as in the path, if it is here, too")] | None = None
    parameters: Parameters = {}
    outputs: list[InferOutput] | None = None


class InferTensor(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tensor of an answer, with its data or with the size of its bytes."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters = {}
    data: list[Any] | None = None


class InferFacts(msgspec.Struct, frozen=True):
    """What an answer says besides its tensors, as its parameters."""

    generation: str
    coverage: float
    duplicates: int
    unknown_history: int
    unscored: int
    degraded: bool


class InferAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer."""

    model_name: str
    model_version: str
    parameters: InferFacts
    outputs: list[InferTensor]
    id: str | None = None


class TensorMetadata(msgspec.Struct, frozen=True):
    """A tensor of a model; a length of -1 is any."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct, frozen=True):
    """The model; its one version is the generation that is served."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(msgspec.Struct, frozen=True):
    """The service."""

    name: str
    version: str
    extensions: list[str]


class Live(msgspec.Struct, frozen=True):
    """Whether the process answers."""

    live: bool


class Ready(msgspec.Struct, frozen=True):
    """Whether requests are welcome."""

    ready: bool


class ModelReady(msgspec.Struct, frozen=True):
    """Whether requests to a model are welcome."""

    name: str
    ready: bool
