"""The tensors and parameters of the Open Inference Protocol in protobuf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from prerank.service.messages import bad_request
from prerank.service.open.messages import InferFacts
from prerank.service.open.protobuf import CLASSES
from prerank.service.open.tensors import (
    BYTES,
    SIZE,
    TYPES,
    Tensor,
    check_tensor,
    from_bytes,
    shaped,
    to_bytes,
    to_texts,
)

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Where the values of a type are, unless they are in bytes."""


def read_message(message: Any) -> dict[str, Tensor]:
    """The tensors of a ModelInferRequest, by name.

    Raises:
        RefusedError: a tensor is not what its shape and type say, or its values are not where they should be.
    """
    parts = message.raw_input_contents
    if parts and len(parts) != len(message.inputs):
        raise bad_request(f"raw_input_contents: has {len(parts)} entries for {len(message.inputs)} inputs")
    tensors: dict[str, Tensor] = {}
    for number, each in enumerate(message.inputs):
        place = check_tensor(tensors, each.name, each.datatype)
        _check_parameters(each.parameters, len(parts[number]) if parts else 0, place)
        given = [field.name for field, _ in each.contents.ListFields()]
        if parts:
            if given:
                raise bad_request(f"{place}.contents.{given[0]}: values are in raw_input_contents, too")
            values = from_bytes(memoryview(parts[number]), each.datatype, place)
        else:
            values = _from_contents(each.contents, given, each.datatype, place)
        tensors[each.name] = shaped(each.name, each.datatype, each.shape, values)
    return tensors


def read_choices(parameters: Mapping[str, Any], place: str = "parameters") -> dict[str, Any]:
    """Parameters as Python's own values.

    Args:
        parameters: a map of messages.
        place: how messages name it.

    Raises:
        RefusedError: one has no value, or one of a type that is not known.
    """
    found = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("choice")
        if choice is None:
            raise bad_request(f"{place}.{name}: has no value")
        found[name] = getattr(parameter, choice)
    return found


def answer_message(model: str, request_id: str, facts: InferFacts, outputs: Sequence[Tensor], in_bytes: bool) -> Any:
    """A ModelInferResponse.

    Args:
        model: its name.
        request_id: of the request.
        facts: what becomes parameters, and the version.
        outputs: the tensors to send.
        in_bytes: as raw_output_contents, not by type.
    """
    message = CLASSES["ModelInferResponse"](model_name=model, model_version=facts.generation, id=request_id)
    for name, value in msgspec.structs.asdict(facts).items():
        choice = {str: "string_param", bool: "bool_param", float: "double_param", int: "int64_param"}[type(value)]
        setattr(message.parameters[name], choice, value)
    for tensor in outputs:
        sent = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=[len(tensor)])
        if in_bytes:
            message.raw_output_contents.append(to_bytes(tensor))
        else:
            values = tensor.items()
            into = getattr(sent.contents, CONTENTS[tensor.datatype])
            into.extend([text.encode() for text in values] if tensor.datatype == BYTES else values)
    return message


def _check_parameters(parameters: Mapping[str, Any], size: int, place: str) -> None:
    """Of an input; KServe's client says the size of its bytes here, too."""
    for name, value in read_choices(parameters, f"{place}.parameters").items():
        if name != SIZE:
            raise bad_request(f"{place}.parameters.{name}: unknown; parameters of an input: {SIZE}")
        if value != size or isinstance(value, bool):
            raise bad_request(f"{place}.parameters.{SIZE}: {value!r}, and there are {size} bytes")


def _from_contents(contents: Any, given: Sequence[str], datatype: str, place: str) -> NDArray[Any] | list[str]:
    field = CONTENTS.get(datatype)
    if field is None:
        raise bad_request(f"{place}.datatype: {datatype} is sent in raw_input_contents only")
    for name in given:
        if name != field:
            raise bad_request(f"{place}.contents.{name}: values of {datatype} are in {field}")
    values = getattr(contents, field)
    if datatype == BYTES:
        return to_texts(values, f"{place}.contents.{field}")
    try:
        return np.fromiter(values, TYPES[datatype], len(values))
    except OverflowError:
        raise bad_request(f"{place}.contents.{field}: a number is beyond {datatype}") from None
