"""Wrong messages of ModelInfer, each with the field that the answer has to name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.service.rpc import FIELDS, as_message
from tests.service.tensors import as_tensors
from tests.service.wrong_requests import GOOD

from prerank.service.open.protobuf import CLASSES

TYPED = as_message(as_tensors(GOOD), in_bytes=False)
RAW = as_message(as_tensors(GOOD), in_bytes=True)


def changed(message: Any, change: Callable[[Any], object]) -> bytes:
    """A copy with a change."""
    copy = type(message).FromString(message.SerializeToString())
    change(copy)
    return bytes(copy.SerializeToString())


def filled(kind: str, field: str, values: list[Any]) -> bytes:
    """Candidates of a type, with values in one of the places for them."""
    message = CLASSES["ModelInferRequest"](model_name="prerank")
    sent = message.inputs.add(name="candidates", datatype=kind, shape=[len(values)])
    getattr(sent.contents, field).extend(values)
    return bytes(message.SerializeToString())


def raw(kind: str, part: bytes, count: int) -> bytes:
    """Candidates of a type, in bytes."""
    message = CLASSES["ModelInferRequest"](model_name="prerank", raw_input_contents=[part])
    message.inputs.add(name="candidates", datatype=kind, shape=[count])
    return bytes(message.SerializeToString())


def with_size(size: Any, choice: str) -> bytes:
    """What KServe's client adds."""
    return changed(RAW, lambda message: setattr(message.inputs[0].parameters["binary_data_size"], choice, size))


VALUES: dict[str, Any] = {
    "bool_contents": [True],
    "int_contents": [1],
    "int64_contents": [1],
    "uint_contents": [1],
    "uint64_contents": [1],
    "fp32_contents": [1.0],
    "fp64_contents": [1.0],
    "bytes_contents": [b"x"],
}
PLACES = {**FIELDS, "UINT16": "uint_contents", "UINT32": "uint_contents"}
HUGE = (1 << 64) - 1

MESSAGES: dict[str, tuple[bytes, str]] = {
    **{
        f"bytes {number}": (content, "body")
        for number, content in enumerate(
            (
                b"\0",
                b"{}",
                b"\x0a",
                b"\x0a\x05abc",
                b"\x08\x01\x0b",
                b"\xff" * 20,
                b"\x0a\xff\xff\xff\xff\x0f",
                b"\x0a\x01\xff",
                b"\x2a\x05\x0a\x03ab",
                b"\x07",
                b'{"inputs": []}',
                RAW.SerializeToString()[:-1],
            )
        )
    },
    **{
        f"{kind} in {field}": (filled(kind, field, values), f"inputs.candidates.contents.{field}: ")
        for kind, place in PLACES.items()
        for field, values in VALUES.items()
        if field != place
    },
    **{f"FP16 in {field}": (filled("FP16", field, VALUES[field]), "inputs.candidates.datatype: ") for field in VALUES},
    **{
        f"{number} for {kind}": (filled(kind, PLACES[kind], [1, number]), f"contents.{PLACES[kind]}: ")
        for kind, number in (
            *(("INT8", 128), ("INT8", -129), ("INT16", 32768), ("INT16", -32769), ("UINT8", 256), ("UINT16", 65536)),
            *(("UINT8", 2**32 - 1), ("INT8", 2**31 - 1)),
        )
    },
    **{
        f"text {value!r}": (filled("BYTES", "bytes_contents", [b"a", value]), "bytes_contents: value 1 is not UTF-8")
        for value in (b"\xff", b"\xe9", b"\xc0\x80", b"\xed\xa0\x80", b"a\x80")
    },
    **{
        f"{len(part)} bytes of {kind}": (raw(kind, part, 1), "inputs.candidates: ")
        for kind, part in (
            *(("INT64", b"x" * 7), ("INT64", b"x" * 9), ("INT32", b"xxx"), ("INT16", b"x"), ("FP64", b"x" * 12)),
            *(("BYTES", b"x"), ("BYTES", b"\1\0\0\0"), ("BYTES", b"\xff\xff\xff\xffabc"), ("BYTES", b"\1\0\0\0\xff")),
        )
    },
    **{
        f"{kind}: {len(part)} bytes for {count}": (raw(kind, part, count), "inputs.candidates.shape: ")
        for kind, part, count in (("INT64", b"x" * 16, 1), ("INT64", b"", 1), ("BYTES", b"", 1), ("INT8", b"abc", 2))
    },
    **{
        f"a shape of {shape}": (
            changed(TYPED, lambda message, shape=shape: message.inputs[0].shape.__setitem__(slice(None), shape)),  # type: ignore[misc]
            "inputs.candidates.shape: ",
        )
        for shape in ([-4], [1, -4], [-1, -4], [-1], [-(2**63)])
    },
    "values by type, too": (
        changed(RAW, lambda message: message.inputs[0].contents.bytes_contents.append(b"x")),
        "inputs.candidates.contents.bytes_contents: ",
    ),
    "bytes of fewer inputs": (changed(RAW, lambda message: message.raw_input_contents.pop()), "raw_input_contents: "),
    "bytes of more inputs": (
        changed(RAW, lambda message: message.raw_input_contents.append(b"")),
        "raw_input_contents",
    ),
    "bytes of no input": (
        CLASSES["ModelInferRequest"](model_name="prerank", raw_input_contents=[b"x"]).SerializeToString(),
        "raw_input_contents",
    ),
    "no input": (CLASSES["ModelInferRequest"](model_name="prerank").SerializeToString(), "inputs.candidates: "),
    "an empty input": (changed(TYPED, lambda message: message.inputs.add()), "inputs."),
    "a parameter of no value": (
        changed(TYPED, lambda message: message.parameters["k"].SetInParent()),
        "parameters.k: has no value",
    ),
    "a parameter of an input of no value": (
        changed(RAW, lambda message: message.inputs[0].parameters["binary_data_size"].SetInParent()),
        "inputs.candidates.parameters.binary_data_size: has no value",
    ),
    **{
        f"size {size!r}": (with_size(size, choice), "inputs.candidates.parameters.binary_data_size: ")
        for size, choice in ((0, "int64_param"), (-1, "int64_param"), ("4", "string_param"), (HUGE, "uint64_param"))
    },
    **{
        f"{name} {value!r} by {choice}": (
            changed(TYPED, lambda message, at=(name, choice, value): setattr(message.parameters[at[0]], *at[1:])),  # type: ignore[misc]
            f"parameters.{name}: ",
        )
        for name, choice, value in (
            *(("k", "double_param", float("nan")), ("k", "double_param", float("inf")), ("k", "uint64_param", 0)),
            *(("deadline_ms", "double_param", float("nan")), ("deadline_ms", "double_param", float("-inf"))),
            *(("ranking", "uint64_param", 1), ("ranking", "double_param", 1.0), ("unknown", "bool_param", False)),
        )
    },
}
"""Messages as bytes."""
