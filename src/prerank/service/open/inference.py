"""The Open Inference Protocol v2 over HTTP, which clients of Triton and KServe speak."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prerank import __version__
from prerank.service.engine import Engine
from prerank.service.http.body import Bodies
from prerank.service.http.gate import Endpoint
from prerank.service.messages import bad_request, decode
from prerank.service.open.messages import (
    InferAnswer,
    InferInput,
    InferOutput,
    InferRequest,
    InferTensor,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
)
from prerank.service.open.rank_tensors import RankParameters, describe, rank_tensors, read_parameters, wanted_outputs
from prerank.service.open.tensors import SIZE, Tensor, read_tensors, to_bytes
from prerank.serving.preranker import PreRanker

JSON, OCTETS = "application/json", "application/octet-stream"
HEAD = "Inference-Header-Content-Length"
INFER = msgspec.json.Decoder(InferRequest)


class OpenInference:
    """The endpoints under /v2. A model's one version is the generation that is served."""

    def __init__(self, engine: Engine, bodies: Bodies) -> None:
        self.engine = engine
        self.bodies = bodies

    def routes(self) -> list[Route]:
        """Where they are."""
        model, version = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
        return [
            Route("/v2", self.server),
            Route("/v2/", self.server),
            Route("/v2/health/live", self.server_live),
            Route("/v2/health/ready", self.server_ready),
            *(Route(place, self.model) for place in (model, version)),
            *(Route(f"{place}/ready", self.model_ready) for place in (model, version)),
            *(Route(f"{place}/infer", self.infer, methods=["POST"]) for place in (model, version)),
        ]

    def ranking(self) -> dict[str, Endpoint]:
        """Those that rank, by the path that clients use who name no version."""
        return {f"/v2/models/{self.engine.config.name}/infer": self.infer}

    async def server(self, _: Request) -> Response:
        """What this is."""
        return _json(ServerMetadata("prerank", __version__, ["binary_tensor_data"]))

    async def server_live(self, _: Request) -> Response:
        """The process answers."""
        return _json(Live(True))

    async def server_ready(self, _: Request) -> Response:
        """Requests are welcome."""
        return _json(Ready(self.engine.ready), 200 if self.engine.ready else 503)

    async def model(self, request: Request) -> Response:
        """The tensors of a request and of an answer."""
        generation = self._ranker(request).generation
        inputs, outputs = describe(generation)
        return _json(ModelMetadata(self.engine.config.name, [generation.name], "prerank", inputs, outputs))

    async def model_ready(self, request: Request) -> Response:
        """Requests to this model are welcome."""
        self._ranker(request)
        return _json(ModelReady(self.engine.config.name, self.engine.ready), 200 if self.engine.ready else 503)

    async def infer(self, request: Request) -> Response:
        """Order candidates."""
        engine = self.engine
        body = await self.bodies.read_if_room(request, (JSON, OCTETS, ""), engine.desk)
        head, binary = _parted(request, body)
        with engine.tracing.span("decode"):
            message = decode(INFER, head, inputs=InferInput, outputs=InferOutput)
        parameters = read_parameters(message.parameters)
        wanted = _wanted(message, parameters)
        ranker, arrived = self._ranker(request), request.scope["arrived"]
        if message.model_name not in (None, engine.config.name):
            raise bad_request(f"model_name: {message.model_name!r}, the path says {engine.config.name!r}")

        def work() -> Response:
            tensors = read_tensors(message.inputs, binary)
            facts, outputs = rank_tensors(engine, ranker, tensors, parameters, arrived)
            with engine.tracing.span("encode"):
                parts = {name: to_bytes(outputs[name]) for name, in_bytes in wanted.items() if in_bytes}
                answer = InferAnswer(
                    model_name=engine.config.name,
                    model_version=facts.generation,
                    parameters=facts,
                    outputs=[_sent(outputs[name], parts.get(name)) for name in wanted],
                    id=message.id,
                )
                return _response(answer, parts.values())

        return await engine.do(work, arrived, parameters.deadline_ms, client=request.scope.get("presence"))

    def _ranker(self, request: Request) -> PreRanker:
        given = request.path_params
        return self.engine.ranker(given.get("name", self.engine.config.name), given.get("version"))


def _parted(request: Request, body: bytes) -> tuple[bytes, memoryview]:
    """The JSON part, and the bytes of tensors behind it."""
    text = request.headers.get(HEAD)
    if text is None:
        return body, memoryview(b"")
    if not text.isdecimal() or not text.isascii() or len(text) > 18 or int(text) > len(body):
        raise bad_request(f"{HEAD}: {text!r} is not a number of bytes of the body, which has {len(body)}")
    return body[: int(text)], memoryview(body)[int(text) :]


def _wanted(message: InferRequest, parameters: RankParameters) -> dict[str, bool]:
    """The outputs to send, and whether in bytes."""
    binary = bool(parameters.binary_data_output)
    outputs = message.outputs or []
    wanted = dict.fromkeys(wanted_outputs([each.name for each in outputs]), binary)
    for each in outputs:
        for name, value in each.parameters.items():
            if name != "binary_data" or not isinstance(value, bool):
                place = f"outputs.{each.name}.parameters.{name}"
                raise bad_request(f"{place}: unknown; parameters of an output: binary_data, a bool")
            wanted[each.name] = value
    return wanted


def _sent(tensor: Tensor, part: bytes | None) -> InferTensor:
    if part is None:
        return InferTensor(tensor.name, tensor.datatype, [len(tensor)], data=tensor.items())
    return InferTensor(tensor.name, tensor.datatype, [len(tensor)], {SIZE: len(part)})


def _response(answer: InferAnswer, parts: Collection[bytes]) -> Response:
    head = msgspec.json.encode(answer)
    if not parts:
        return Response(head, media_type=JSON)
    return Response(b"".join([head, *parts]), headers={HEAD: str(len(head))}, media_type=OCTETS)


def _json(content: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type=JSON)
