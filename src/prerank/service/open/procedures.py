"""The Open Inference Protocol v2 as remote procedures: from messages to messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from prerank import __version__
from prerank.service.engine import Engine
from prerank.service.messages import bad_request
from prerank.service.open.protobuf import CLASSES
from prerank.service.open.protobuf_tensors import answer_message, read_choices, read_message
from prerank.service.open.rank_tensors import describe, rank_tensors, read_parameters, wanted_outputs

SERVICE = "inference.GRPCInferenceService"


@dataclass(frozen=True)
class Call:
    """A procedure is called.

    Attributes:
        message: of the class that it takes; None if it takes nothing.
        arrived: on the clock of ``perf_counter``.
        left: seconds that the caller's deadline left it then; None without one.
    """

    message: Any
    arrived: float
    left: float | None


@dataclass(frozen=True)
class Procedure:
    """A procedure of the service.

    Attributes:
        takes: the name of its message; None if there is nothing in it, and so nothing to wait for.
        answer: what it does; its result is a message.
        protected: whether a token is asked for.
        queued: whether it needs a place in the queue.
    """

    takes: str | None
    answer: Callable[[Call], Awaitable[Any]]
    protected: bool = True
    queued: bool = False


class OpenInferenceRpc:
    """The procedures of the protocol. A model's one version is the generation that is served."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def procedures(self) -> dict[str, Procedure]:
        """By name."""
        return {
            "ServerLive": Procedure(None, self.server_live, protected=False),
            "ServerReady": Procedure(None, self.server_ready, protected=False),
            "ServerMetadata": Procedure(None, self.server),
            "ModelReady": Procedure("ModelRequest", self.model_ready),
            "ModelMetadata": Procedure("ModelRequest", self.model),
            "ModelInfer": Procedure("ModelInferRequest", self.infer, queued=True),
        }

    async def server_live(self, _: Call) -> Any:
        """The process answers."""
        return CLASSES["ServerLiveResponse"](live=True)

    async def server_ready(self, _: Call) -> Any:
        """Requests are welcome."""
        return CLASSES["ServerReadyResponse"](ready=self.engine.ready)

    async def server(self, _: Call) -> Any:
        """What this is."""
        return CLASSES["ServerMetadataResponse"](name="prerank", version=__version__)

    async def model_ready(self, call: Call) -> Any:
        """Requests to this model are welcome."""
        self.engine.ranker(call.message.name, call.message.version or None)
        return CLASSES["ModelReadyResponse"](ready=self.engine.ready)

    async def model(self, call: Call) -> Any:
        """The tensors of a request and of an answer."""
        generation = self.engine.ranker(call.message.name, call.message.version or None).generation
        answer = CLASSES["ModelMetadataResponse"](
            name=self.engine.config.name, versions=[generation.name], platform="prerank"
        )
        for to, tensors in zip((answer.inputs, answer.outputs), describe(generation), strict=True):
            for each in tensors:
                to.add(name=each.name, datatype=each.datatype, shape=each.shape)
        return answer

    async def infer(self, call: Call) -> Any:
        """Order candidates; values come back as they were sent, in bytes or by type, unless told otherwise."""
        engine, message = self.engine, call.message
        parameters = read_parameters(read_choices(message.parameters))
        wanted = wanted_outputs([each.name for each in message.outputs])
        for each in message.outputs:
            for name in each.parameters:
                raise bad_request(f"outputs.{each.name}.parameters.{name}: unknown; an output has no parameters here")
        in_bytes = parameters.binary_data_output
        in_bytes = bool(message.raw_input_contents) if in_bytes is None else in_bytes
        ranker = engine.ranker(message.model_name, message.model_version or None)

        def work() -> Any:
            with engine.tracing.span("decode"):
                tensors = read_message(message)
            facts, outputs = rank_tensors(engine, ranker, tensors, parameters, call.arrived)
            sent = [outputs[name] for name in wanted]
            with engine.tracing.span("encode"):
                return answer_message(engine.config.name, message.id, facts, sent, in_bytes)

        allowed = [each for each in (parameters.deadline_ms, call.left and 1000 * call.left) if each is not None]
        return await engine.do(work, call.arrived, min(allowed, default=None))
