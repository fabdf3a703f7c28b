"""Ranking requests as the bytes that go over a connection: native JSON, or the open protocol with binary tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from prerank.bench.latency_world import HISTORY, SCHEMA, VALUES
from prerank.errors import RequestError
from prerank.serving.lines import read_lines
from prerank.serving.request import Request

HEAD = "inference-header-content-length"


def random_asked(count: int, candidates: int, history: int, items: int, k: int, seed: int) -> list[Request]:
    """Requests of random users of the world that latency is measured on."""
    rng = np.random.default_rng(seed)
    return [
        Request(
            user={field.name: int(rng.integers(VALUES[f"user.{field.name}"])) for field in SCHEMA.user},
            candidates=rng.choice(items, size=candidates, replace=False).tolist(),
            history=rng.integers(items, size=min(history, HISTORY)).tolist(),
            k=k,
        )
        for _ in range(count)
    ]


def read_requests(file: Path, most: int) -> list[Request]:
    """The first requests of a file with one JSON request a line, as for ``prerank rank --requests``, or sampled.

    Raises:
        RequestError: the file cannot be read, or a line is no request; it is named.
    """
    requests = [line.request for line in islice(read_lines(file), most)]
    if not requests:
        raise RequestError(f"--requests {file}: holds no request")
    return requests


def native(request: Request, deadline_ms: float | None = None) -> bytes:
    """A POST to /v1/rank."""
    content = {name: value for name, value in vars(request).items() if value not in (None, (), {}, [])}
    if deadline_ms is not None:
        content["deadline_ms"] = deadline_ms
    return _post("/v1/rank", json.dumps(content).encode(), {"content-type": "application/json"})


def open_binary(request: Request, deadline_ms: float | None = None, model: str = "prerank") -> bytes:
    """A POST to /v2/models/NAME/infer with all tensors in bytes, and the answer's as well.

    Raises:
        RequestError: a value has no tensor of its own.
    """
    tensors: dict[str, Any] = {"candidates": request.candidates}
    if request.history and isinstance(request.history[0], Mapping):
        names = request.history[0]
        tensors |= {f"history.{name}": [record[name] for record in request.history] for name in names}
    elif request.history:
        tensors["history"] = request.history
    for side, values in (("user", request.user), ("context", request.context)):
        given = {f"{side}.{name}": value for name, value in values.items() if value is not None}
        tensors |= {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    for side, columns in (("columns", request.columns), ("pairs", request.pairs)):
        tensors |= {f"{side}.{name}": column for name, column in columns.items()}
    parts: list[bytes] = []
    inputs: list[dict[str, Any]] = []
    for name, column in tensors.items():
        datatype, data = _tensor(name, column)
        parts.append(data)
        size = {"binary_data_size": len(data)}
        inputs.append({"name": name, "datatype": datatype, "shape": [len(column)], "parameters": size})
    wanted: dict[str, Any] = {"k": request.k, "deadline_ms": deadline_ms, "ranking": request.ranking}
    wanted |= {"unknown": request.unknown, "binary_data_output": True}
    parameters = {name: value for name, value in wanted.items() if value is not None}
    head = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    headers = {"content-type": "application/octet-stream", HEAD: str(len(head))}
    return _post(f"/v2/models/{model}/infer", b"".join([head, *parts]), headers)


PAYLOADS: Final[Mapping[str, Callable[..., bytes]]] = {"json": native, "binary": open_binary}


def _tensor(name: str, values: Sequence[Any]) -> tuple[str, bytes]:
    if all(isinstance(value, str) for value in values):
        texts = [value.encode() for value in values]
        return "BYTES", b"".join([part for text in texts for part in (len(text).to_bytes(4, "little"), text)])
    array = np.asarray(values)
    if array.dtype.kind == "b":
        return "BOOL", array.tobytes()
    if array.dtype.kind == "i":
        return "INT64", array.astype("<i8").tobytes()
    if array.dtype.kind == "f":
        return "FP64", array.astype("<f8").tobytes()
    raise RequestError(f"{name}: {values[0]!r} and its like have no binary form; use the payload json")


def _post(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: bench", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
