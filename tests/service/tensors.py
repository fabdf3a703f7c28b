"""Native requests as requests of the Open Inference Protocol, made without the service's own code."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from tests.service.conftest import JSON, Answer, Running

INFER = "/v2/models/prerank/infer"
PARAMETERS = ("k", "ranking", "unknown", "deadline_ms")
KINDS: dict[str, Any] = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT64": np.uint64,
    "FP32": np.float32,
    "FP64": np.float64,
}


def tensor(name: str, values: Any, datatype: str | None = None, **more: Any) -> dict[str, Any]:
    """An input in JSON; its type is that of the values."""
    if datatype is None:
        kinds = {type(value) for value in values}
        datatype = "INT64" if kinds == {int} else "FP64" if kinds and kinds <= {int, float} else "BYTES"
        values = [str(value) for value in values] if datatype == "BYTES" else values
    return {"name": name, "datatype": datatype, "shape": [len(values)], "data": values, **more}


def as_tensors(request: dict[str, Any]) -> dict[str, Any]:
    """A native request in the protocol's JSON; what is not a tensor's becomes a parameter."""
    rest = dict(request)
    inputs = [tensor("candidates", rest.pop("candidates"))]
    history = rest.pop("history", [])
    if history and isinstance(history[0], dict):
        for name in {name for record in history for name in record}:
            inputs.append(tensor(f"history.{name}", [record[name] for record in history]))
    elif history:
        inputs.append(tensor("history", history))
    for side in ("user", "context"):
        inputs += [tensor(f"{side}.{name}", [value]) for name, value in rest.pop(side, {}).items()]
    for name, values in rest.pop("columns", {}).items():
        inputs.append(tensor(f"columns.{name}", [float(value) for value in values], "FP64"))
    for name, values in rest.pop("pairs", {}).items():
        inputs.append(tensor(f"pairs.{name}", values))
    return {"inputs": inputs, "parameters": rest}


def raw_values(values: Any, datatype: str) -> bytes:
    if datatype not in KINDS and datatype != "BYTES":
        return b"x" * 8  # of no type
    if datatype != "BYTES":
        return bytes(np.array(values, KINDS[datatype]).tobytes())
    texts = [value.encode() for value in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def as_bytes(content: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The JSON part and the bytes of the same request in the binary extension."""
    inputs, parts = [], []
    for each in content["inputs"]:
        parts.append(raw_values(each["data"], each["datatype"]))
        size = {**each.get("parameters", {}), "binary_data_size": len(parts[-1])}
        inputs.append({**{key: each[key] for key in ("name", "datatype", "shape")}, "parameters": size})
    parameters = {"binary_data_output": True, **content.get("parameters", {})}
    return {**content, "inputs": inputs, "parameters": parameters}, b"".join(parts)


def send_json(server: Running, content: Any, connection: Any = None, path: str = INFER) -> Answer:
    return server.call("POST", path, content, JSON, connection)


def send_bytes(server: Running, head: Any, binary: bytes, connection: Any = None, length: Any = None) -> Answer:
    """The JSON part may be bytes already; the header may lie about its length."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(text) if length is None else length),
    }
    return server.call("POST", INFER, text + binary, headers, connection)


def outputs(answer: Answer) -> dict[str, Any]:
    """The tensors of an answer, whichever way each was sent."""
    length = answer.headers.get("Inference-Header-Content-Length")
    content = json.loads(answer.raw[: int(length)] if length else answer.raw)
    rest = answer.raw[int(length) :] if length else b""
    found = {}
    for each in content["outputs"]:
        size = each.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[each["name"]] = each["data"]
        else:
            part, rest = rest[:size], rest[size:]
            found[each["name"]] = _read(part, each["datatype"])
        assert each["shape"] == [len(found[each["name"]])]
    assert rest == b""
    return found


def _read(part: bytes, datatype: str) -> list[Any]:
    if datatype != "BYTES":
        return list(np.frombuffer(part, KINDS[datatype]).tolist())
    texts = []
    while part:
        (size,) = struct.unpack_from("<I", part)
        texts.append(part[4 : 4 + size].decode())
        part = part[4 + size :]
    return texts
