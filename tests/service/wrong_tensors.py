"""Wrong requests of the open protocol, each with the field that the answer has to name."""

from __future__ import annotations

import json
import struct
from typing import Any

from tests.service.tensors import as_bytes, as_tensors, tensor
from tests.service.wrong_requests import GOOD, ITEMS

CANDIDATES = tensor("candidates", ITEMS[:4])
BID = tensor("columns.bid", [1.0, 2.0, 3.0, 4.0], "FP64")


def ids(**changes: Any) -> dict[str, Any]:
    """A request whose candidates are not right."""
    return {"inputs": [{**CANDIDATES, **changes}]}


def beside(*inputs: Any, **more: Any) -> dict[str, Any]:
    """A request with right candidates and something wrong beside them."""
    return {"inputs": [CANDIDATES, *inputs], **more}


def without(key: str) -> dict[str, Any]:
    return {"inputs": [{name: value for name, value in CANDIDATES.items() if name != key}]}


TENSORS: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "body"),
    "a list": ([], "body"),
    "no inputs": ({}, "inputs"),
    "null inputs": ({"inputs": None}, "inputs"),
    "no input": ({"inputs": []}, "inputs.candidates"),
    "an object for inputs": ({"inputs": {"candidates": []}}, "inputs"),
    "a null input": ({"inputs": [None]}, "inputs[0]"),
    "another field": (beside(model_name="x"), "model_name"),
    "a number for the id": (beside(id=5), "id"),
    "another field of an input": (ids(dtype="x"), "inputs[0].dtype"),
    "no name": (without("name"), "inputs[0].name"),
    "a number for a name": (ids(name=5), "inputs[0].name"),
    "no shape": (without("shape"), "inputs[0].shape"),
    "a number for a shape": (ids(shape=4), "inputs[0].shape"),
    "a negative shape": (ids(shape=[-4]), "inputs[0].shape"),
    "a fraction for a shape": (ids(shape=[4.0]), "inputs[0].shape"),
    "an empty shape": (ids(shape=[]), "inputs.candidates.shape"),
    "a matrix": (ids(shape=[2, 2]), "inputs.candidates.shape"),
    "three dimensions": (ids(shape=[1, 1, 4]), "inputs.candidates.shape"),
    "a shape too small": (ids(shape=[3]), "inputs.candidates.shape"),
    "a shape too large": (ids(shape=[2**62]), "inputs.candidates.shape"),
    "no datatype": (without("datatype"), "inputs[0].datatype"),
    "an unknown datatype": (ids(datatype="INT65"), "inputs.candidates.datatype"),
    "a datatype in small letters": (ids(datatype="bytes"), "inputs.candidates.datatype"),
    "no data": (without("data"), "inputs.candidates.data"),
    "null data": (ids(data=None), "inputs.candidates.data"),
    "a text for data": (ids(data="x"), "inputs[0].data"),
    "numbers for texts": (ids(data=[1, 2, 3, 4]), "inputs.candidates.data[0]"),
    "a null text": (ids(data=["a", "b", None, "d"]), "inputs.candidates.data[2]"),
    "texts for numbers": (ids(datatype="INT64"), "inputs.candidates.data[0]"),
    "a fraction for an integer": (ids(datatype="INT64", data=[1, 2.5, 3, 4]), "inputs.candidates.data[1]"),
    "true for an integer": (ids(datatype="INT64", data=[1, True, 3, 4]), "inputs.candidates.data[1]"),
    "an integer beyond its type": (ids(datatype="INT8", data=[1, 2, 300, 4]), "inputs.candidates.data"),
    "an integer beyond 64 bits": (ids(datatype="INT64", data=[1, 2, 2**64, 4]), "inputs.candidates.data"),
    "a negative unsigned": (ids(datatype="UINT8", data=[1, 2, -3, 4]), "inputs.candidates.data"),
    "fractions for ids": (ids(datatype="FP32", data=[1.0] * 4), "inputs.candidates.datatype"),
    "truths for ids": (ids(datatype="BOOL", data=[True] * 4), "inputs.candidates.datatype"),
    "unsigned ids": (ids(datatype="UINT64", data=[1] * 4), "inputs.candidates.datatype"),
    "nested data": (ids(data=[["a", "b"], ["c", "d"]]), "inputs.candidates.data[0]"),
    "deeper data": (ids(data=[[["a", "b", "c", "d"]]]), "inputs.candidates.data[0]"),
    "an input twice": (beside(CANDIDATES), "inputs.candidates"),
    "an unknown input": (beside(tensor("price", [1.0] * 4)), "inputs.price"),
    "an unknown side": (beside(tensor("item.price", [1.0] * 4)), "inputs.item.price"),
    "a side without field": (beside(tensor("user.", [1.0])), "user."),
    "two values of a field": (beside(tensor("user.city", ["a", "b"])), "inputs.user.city.shape"),
    "no value of a field": (beside(tensor("user.city", [], "BYTES")), "inputs.user.city.shape"),
    "texts for a column": (beside(tensor("columns.bid", ["1"] * 4)), "inputs.columns.bid.datatype"),
    "number without end": (beside({**BID, "datatype": "FP32", "data": [1e300] * 4}), "columns.bid[0]"),
    "fractions for a history": (beside(tensor("history", [1.0], "FP64")), "inputs.history.datatype"),
    "ids and records": (beside(tensor("history", ["a"]), tensor("history.item_id", ["a"])), "inputs.history"),
    "uneven records": (
        beside(tensor("history.item_id", ["a", "b"]), tensor("history.category", ["a"])),
        "history.item_id, history.category",
    ),
    "a parameter of an input": (ids(parameters={"x": 1}), "inputs.candidates.parameters.x"),
    "shared memory": (ids(parameters={"shared_memory_region": "r"}), "parameters.shared_memory_region"),
    "a size without bytes": (
        {"inputs": [{**without("data")["inputs"][0], "parameters": {"binary_data_size": 8}}]},
        "inputs.candidates.parameters.binary_data_size",
    ),
    "an unknown output": (beside(outputs=[{"name": "embedding"}]), "outputs.embedding"),
    "an output twice": (beside(outputs=[{"name": "ids"}, {"name": "ids"}]), "outputs.ids"),
    "an output without name": (beside(outputs=[{}]), "outputs[0].name"),
    "another field of an output": (beside(outputs=[{"name": "ids", "shape": [1]}]), "outputs[0].shape"),
    "a parameter of an output": (
        beside(outputs=[{"name": "ids", "parameters": {"classification": 3}}]),
        "outputs.ids.parameters.classification",
    ),
    "a text for a truth": (
        beside(outputs=[{"name": "ids", "parameters": {"binary_data": "yes"}}]),
        "outputs.ids.parameters.binary_data",
    ),
    "a text for another truth": (beside(parameters={"binary_data_output": "yes"}), "parameters.binary_data_output"),
    "a list for parameters": (beside(parameters=[]), "parameters"),
}
"""Bodies of infer in JSON."""


def binary(
    binary_data: bytes, datatype: str = "BYTES", size: Any = None, count: int = 4, **changes: Any
) -> tuple[Any, bytes]:
    """A request whose candidates are these bytes."""
    parameters = {"binary_data_size": len(binary_data) if size is None else size}
    entry = {"name": "candidates", "datatype": datatype, "shape": [count], "parameters": parameters, **changes}
    return {"inputs": [entry]}, binary_data


HEAD, DATA = as_bytes(as_tensors(GOOD))
TEXT = json.dumps(HEAD).encode()
COLUMN = {"name": "columns.bid", "datatype": "FP32", "shape": [4], "parameters": {"binary_data_size": 16}}
BESIDE = {"inputs": [CANDIDATES, COLUMN]}
RIGHT: dict[str, dict[str, Any]] = {
    each["name"]: each
    for each in (
        CANDIDATES,
        BID,
        tensor("history", ITEMS[:3]),
        tensor("history.category", ["a", "b", "c"]),
        tensor("user.city", ["city-1"]),
        tensor("user.user_id", [7]),
    )
}
"""Inputs that are right, each for itself."""


def with_input(which: str, **changes: Any) -> dict[str, Any]:
    """A request with that input, not as it should be."""
    changed = {**RIGHT[which], **changes}
    return {"inputs": [changed] if which == "candidates" else [CANDIDATES, changed]}


def shapes(count: int) -> list[list[int]]:
    """Not of a vector of so many values."""
    wrong = [
        [],
        [count + 1],
        [2, count],
        [1, 1, count],
        [1, 1, 1, count],
        [0],
        [1, count + 1],
        [2**31],
        [2**62],
        [1, 2**63 - 1],
    ]
    return wrong if count == 1 else [*wrong, [count, 1], [count - 1]]


NO_TYPES = ("", "INT65", "INT", "INT 64", "int64", "bytes", "STRING", "BF16", "FP8", "FP128", "BYTES ", "float32", "\0")
NO_OUTPUTS = ("", "embedding", "IDS", "ids ", "ids.0", "../ids", "scores\0", "candidates")

ANY_TENSOR: dict[str, tuple[dict[str, Any], str]] = {
    **{
        f"{name} of shape {shape}": (with_input(name, shape=shape), f"inputs.{name}.shape: ")
        for name, right in RIGHT.items()
        for shape in shapes(len(right["data"]))
    },
    **{
        f"{name} of type {kind!r}": (with_input(name, datatype=kind), f"inputs.{name}.datatype: ")
        for name in RIGHT
        for kind in NO_TYPES
    },
    **{
        f"{name} of type {kind}": (
            with_input(name, **tensor(name, [1] * len(RIGHT[name]["data"]), kind)),
            f"inputs.{name}.datatype: ",
        )
        for name in ("candidates", "history")
        for kind in ("UINT64", "FP32", "FP64")
    },
    **{f"{name} twice": (beside(RIGHT[name], RIGHT[name]), f"inputs.{name}: is there twice") for name in RIGHT},
    **{
        f"{name} with {parameter}": (
            with_input(name, parameters={parameter: value}),
            f"inputs.{name}.parameters.{parameter}: ",
        )
        for name in ("candidates", "columns.bid")
        for parameter, value in (
            ("shared_memory_region", "r"),
            ("shared_memory_byte_size", 64),
            ("content_type", "np"),
            ("x", True),
        )
    },
    **{
        f"an input {name!r}": (beside(tensor(name, [1.0])), f"inputs.{name}: ")
        for name in (
            "",
            "price",
            "candidates ",
            "Candidates",
            ".",
            "user",
            "item.price",
            "columns.",
            "history.",
            "user.",
            "pairs.",
        )
    },
    **{f"output {name!r}": (beside(outputs=[{"name": name}]), f"outputs.{name}: ") for name in NO_OUTPUTS},
    "an output twice": (beside(outputs=[{"name": "ids"}, {"name": "ids"}]), "outputs.ids: "),
    "a parameter of an output": (
        beside(outputs=[{"name": "ids", "parameters": {"classification": 3}}]),
        "outputs.ids.parameters.classification: ",
    ),
    **{
        f"parameter {name!r}": (beside(parameters={name: 1}), f"parameters.{name}: unknown")
        for name in ("", "K", "limit", "priority", "sequence_id", "binary_data", "timeout", "candidates")
    },
    **{
        f"form {value!r}": (beside(parameters={"binary_data_output": value}), "parameters.binary_data_output: ")
        for value in ("yes", "", 1, 0, 0.5)
    },
}
"""Requests that every form of tensors can have."""

LENGTH = "Inference-Header-Content-Length"

BINARY: dict[str, tuple[Any, bytes, Any, str]] = {
    "no bytes": (HEAD, b"", None, "binary_data_size"),
    "a byte less": (HEAD, DATA[:-1], None, "binary_data_size"),
    "a byte more": (HEAD, DATA + b"x", None, "body"),
    "no length": (HEAD, DATA, "", LENGTH),
    "a text for the length": (HEAD, DATA, "x", LENGTH),
    "a negative length": (HEAD, DATA, -1, LENGTH),
    "a length beyond the body": (HEAD, DATA, len(TEXT) + len(DATA) + 1, LENGTH),
    "a length beyond numbers": (HEAD, DATA, "9" * 500, LENGTH),
    "a length of zero": (HEAD, DATA, 0, "body"),
    "a length too short": (HEAD, DATA, len(TEXT) - 1, "body"),
    "a length too long": (HEAD, DATA, len(TEXT) + 1, "inputs.candidates"),
    "all of it": (HEAD, DATA, len(TEXT) + len(DATA), "body"),
    "another numeral": (HEAD, DATA, "²", LENGTH),
    "a size in a text": (*binary(b"1234", size="4"), None, "inputs.candidates.parameters.binary_data_size"),
    "a size that is true": (*binary(b"1", size=True), None, "inputs.candidates.parameters.binary_data_size"),
    "a negative size": (*binary(b"1234", size=-4), None, "inputs.candidates.parameters.binary_data_size"),
    "a null size": ({"inputs": [{**CANDIDATES, "data": None}]}, b"", None, "inputs.candidates.data"),
    "a size beyond numbers": (*binary(b"1234", size=2**70), None, "binary_data_size"),
    "data and size": (*binary(b"", data=ITEMS[:4]), None, "inputs.candidates.data"),
    "half an integer": (*binary(b"x" * 28, "INT64"), None, "inputs.candidates: 28 bytes"),
    "integers too few": (*binary(b"x" * 24, "INT64"), None, "inputs.candidates.shape"),
    "half a length": (*binary(b"\1\0", count=1), None, "inputs.candidates: value 0"),
    "a text cut": (*binary(struct.pack("<I", 5) + b"abcd", count=1), None, "inputs.candidates: value 0"),
    "a text without end": (*binary(b"\xff\xff\xff\xffabc", count=1), None, "inputs.candidates: value 0"),
    "not UTF-8": (*binary(struct.pack("<I", 1) + b"\xff", count=1), None, "inputs.candidates: value 0"),
    "the second text": (*binary(b"\1\0\0\0a\1\0\0\0\xe9", count=2), None, "inputs.candidates: value 1"),
    "texts too few": (*binary(b"\1\0\0\0a", count=2), None, "inputs.candidates.shape"),
    "an infinite number": (
        {"inputs": [CANDIDATES, COLUMN]},
        struct.pack("<4f", 1, float("inf"), 1, 1),
        None,
        "columns.bid[1]",
    ),
    "not a number": (
        {"inputs": [CANDIDATES, COLUMN]},
        struct.pack("<4f", 1, 1, float("nan"), 1),
        None,
        "columns.bid[2]",
    ),
    "an unknown datatype": (*binary(b"x" * 8, "BF16"), None, "inputs.candidates.datatype"),
    "fractions for ids": (*binary(b"x" * 8, "FP16"), None, "inputs.candidates.datatype"),
    "JSON that is none": (b"{", b"", None, "body"),
    "bytes only": (b"", b"\0\1\2\3", None, "body"),
}
"""JSON part, bytes, what the header says of the former's length, field."""
