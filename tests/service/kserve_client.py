"""KServe's client, in a process of its own: requests on stdin, what the client makes of the answers on stdout.

    python kserve_client.py HTTP_PORT GRPC_PORT

Run by test_clients.py with the interpreter of an environment that has kserve, and nothing of prerank. A request is an
object of ``inputs`` (name, datatype, values), ``parameters`` and, unless it is prerank, ``model``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module
from typing import Any

import numpy as np

kserve: Any = import_module("kserve")
clients: Any = import_module("kserve.inference_client")
KINDS = {"BYTES": np.object_, "INT64": np.int64, "FP64": np.float64}


def to_request(case: dict[str, Any], in_bytes: bool) -> Any:
    """The client's own request."""
    inputs = []
    for each in case["inputs"]:
        shape = [len(each["values"])]
        made = kserve.InferInput(each["name"], shape, each["datatype"])
        made.set_data_from_numpy(np.array(each["values"], KINDS[each["datatype"]]), binary_data=in_bytes)
        inputs.append(made)
    parameters = {**case.get("parameters", {}), "binary_data_output": in_bytes}
    return kserve.InferRequest(case.get("model", "prerank"), inputs, parameters=parameters)


def plain(answer: Any) -> dict[str, Any]:
    """Its answer in JSON."""
    tensors = {each.name: each.as_numpy().tolist() for each in answer.outputs}
    return {
        name: [value.decode() if isinstance(value, bytes) else value for value in values]
        for name, values in tensors.items()
    } | {"version": answer.model_version}


async def ask(http: str, grpc: str, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Each way's answers, and what the health calls say."""
    rest = kserve.InferenceRESTClient(clients.RESTConfig(protocol="v2", retries=0))
    rpc = kserve.InferenceGRPCClient(grpc, retries=0)
    told: dict[str, Any] = {
        "health": [
            await rest.is_server_live(http),
            await rest.is_server_ready(http),
            await rest.is_model_ready(http, "prerank"),
            await rpc.is_server_live(),
            await rpc.is_server_ready(),
            await rpc.is_model_ready("prerank"),
        ]
    }
    for in_bytes in (False, True):
        for name in ("rest", "rpc"):
            answers = told.setdefault(f"{name}, {'bytes' if in_bytes else 'by type'}", [])
            for case in cases:
                request = to_request(case, in_bytes)
                try:
                    if name == "rest":
                        answers.append(plain(await rest.infer(http, request, case.get("model", "prerank"))))
                    else:
                        answers.append(plain(await rpc.infer(request)))
                except Exception as error:  # whatever the client makes of a refusal
                    answers.append({"error": f"{type(error).__name__}: {error}"})
    await rest.close()
    await rpc.close()
    return told


if __name__ == "__main__":
    http, grpc = (f"127.0.0.1:{port}" for port in sys.argv[1:])
    json.dump(asyncio.run(ask(f"http://{http}", grpc, json.load(sys.stdin))), sys.stdout)
