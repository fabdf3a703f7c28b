"""Calls of the open protocol over gRPC, and native requests as its messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from tests.service.conftest import Running
from tests.service.tensors import KINDS, raw_values

from prerank.service.open.protobuf import CLASSES

PATH = "/inference.GRPCInferenceService/"
TAKES = {"ModelInfer": "ModelInferRequest", "ModelReady": "ModelRequest", "ModelMetadata": "ModelRequest"}
GIVES = {"ModelInfer": "ModelInferResponse"}
FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "UINT8": "uint_contents",
    "UINT64": "uint64_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
CHOICES = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}


@contextmanager
def channel_to(server: Running) -> Iterator[Any]:
    """A connection."""
    channel = grpc.insecure_channel(f"127.0.0.1:{server.rpc_port}")
    yield channel
    channel.close()


def call(channel: Any, name: str, message: Any = b"", **rest: Any) -> Any:
    """The answer; a message may be bytes already."""
    raw = message if isinstance(message, bytes) else message.SerializeToString()
    answer = CLASSES[GIVES.get(name, f"{name}Response")]
    return channel.unary_unary(PATH + name, response_deserializer=answer.FromString)(raw, timeout=30, **rest)


def refusal(channel: Any, name: str, message: Any = b"", **rest: Any) -> Any:
    """The error that is the answer."""
    try:
        answer = call(channel, name, message, **rest)
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"answered: {answer}")


def choose(parameters: Any, values: Mapping[str, Any]) -> None:
    """Fill a map of parameters."""
    for name, value in values.items():
        setattr(parameters[name], CHOICES[type(value)], value)


def as_message(content: Mapping[str, Any], in_bytes: bool, model: str = "prerank", version: str = "") -> Any:
    """A request of the protocol's JSON as a message."""
    message = CLASSES["ModelInferRequest"](model_name=model, model_version=version, id=content.get("id", ""))
    choose(message.parameters, content.get("parameters", {}))
    for each in content["inputs"]:
        sent = message.inputs.add(name=each["name"], datatype=each["datatype"], shape=each["shape"])
        choose(sent.parameters, each.get("parameters", {}))
        if in_bytes:
            message.raw_input_contents.append(raw_values(each["data"], each["datatype"]))
        else:
            values = each["data"]
            texts = FIELDS.get(each["datatype"], "bytes_contents") == "bytes_contents"
            into = getattr(sent.contents, FIELDS.get(each["datatype"], "bytes_contents"))
            into.extend([str(value).encode() for value in values] if texts else values)
    for each in content.get("outputs", ()):
        choose(message.outputs.add(name=each["name"]).parameters, each.get("parameters", {}))
    return message


def tensors_of(answer: Any) -> dict[str, Any]:
    """The tensors of an answer, whichever way they were sent."""
    parts = list(answer.raw_output_contents)
    found: dict[str, Any] = {}
    for number, each in enumerate(answer.outputs):
        texts = each.datatype == "BYTES"
        if not parts:
            values = list(getattr(each.contents, FIELDS[each.datatype]))
        else:
            assert not each.contents.ListFields() and len(parts) == len(answer.outputs)
            values = _texts(parts[number]) if texts else np.frombuffer(parts[number], KINDS[each.datatype]).tolist()
        found[each.name] = [value.decode() for value in values] if texts else values
        assert list(each.shape) == [len(values)]
    return found


def _texts(part: bytes) -> list[bytes]:
    texts = []
    while part:
        end = 4 + int.from_bytes(part[:4], "little")
        texts.append(part[4:end])
        part = part[end:]
    return texts
