"""Software of others against the service.

NVIDIA's and KServe's clients of the open protocol get the in-process scores, to the last bit: over HTTP in JSON and in
bytes and over gRPC, by their own code. Schemathesis reads the OpenAPI page and tries requests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.service.conftest import Running
from tests.service.test_rank import ITEMS

from prerank.service.open.protobuf import MESSAGES
from prerank.serving.preranker import PreRanker

pytest.importorskip("tritonclient", reason="run by make clients")

pytestmark = [pytest.mark.xdist_group("service"), pytest.mark.filterwarnings("default"), pytest.mark.timeout(1800)]

PLAIN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
CANDIDATES = [*ITEMS, "not there"]
BID = np.linspace(0.5, 2, len(CANDIDATES))
INPUTS: dict[str, Any] = {
    "candidates": CANDIDATES,
    "history": ITEMS[20:30],
    "user.user_id": [7],
    "user.city": ["city-1"],
    "columns.bid": BID.tolist(),
}
OUTPUTS = ("ids", "values", "scores", "unknown")


@pytest.fixture(scope="module")
def expected(ranker: PreRanker) -> dict[str, Any]:
    """What the process itself says to ``INPUTS``."""
    ranked = ranker.rank(
        {"user_id": 7, "city": "city-1"}, CANDIDATES, 10, "ecpm", history=ITEMS[20:30], columns={"bid": BID}
    )
    scores, values = ranked.scores.tolist(), ranked.values.tolist()
    return {"ids": ranked.ids, "values": values, "scores": scores, "unknown": ["not there"]}


class Triton:
    """One of NVIDIA's two clients, which differ a little."""

    def __init__(self, over: str, server: Running) -> None:
        self.over = over
        self.module: Any = import_module(f"tritonclient.{over}")
        port = server.port if over == "http" else server.rpc_port
        self.client: Any = self.module.InferenceServerClient(f"127.0.0.1:{port}")

    def infer(self, inputs: dict[str, Any], binary: bool = True, binary_out: bool = True, **rest: Any) -> Any:
        """Send requests in bytes or in JSON; over gRPC there is only the former."""
        sent = [self._tensor(name, values, binary) for name, values in inputs.items()]
        outputs = [self._output(name, binary_out) for name in OUTPUTS]
        return self.client.infer(rest.pop("model", "prerank"), sent, outputs=outputs, **rest)

    def told(self, answer: Any) -> tuple[str, dict[str, Any]]:
        """Version and parameters of an answer."""
        content = answer.get_response()
        if self.over == "http":
            return content["model_version"], content["parameters"]
        choices = {
            name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in content.parameters.items()
        }
        return content.model_version, choices

    def metadata(self) -> dict[str, Any]:
        """Of the model."""
        rest = {} if self.over == "http" else {"as_json": True}
        return dict(self.client.get_model_metadata("prerank", **rest))

    def _tensor(self, name: str, values: Any, binary: bool) -> Any:
        array = np.array(values, dtype=object) if isinstance(values[0], str) else np.asarray(values)
        made = self.module.InferInput(
            name, list(array.shape), {"O": "BYTES", "i": "INT64", "f": "FP64"}[array.dtype.kind]
        )
        made.set_data_from_numpy(array, **({"binary_data": binary} if self.over == "http" else {}))
        return made

    def _output(self, name: str, binary: bool) -> Any:
        return self.module.InferRequestedOutput(name, **({"binary_data": binary} if self.over == "http" else {}))


@pytest.fixture(scope="module", params=["http", "grpc"])
def triton(request: pytest.FixtureRequest, service: Running) -> Iterator[Triton]:
    client = Triton(request.param, service)
    yield client
    client.client.close()


def test_triton_health_and_metadata(triton: Triton, ranker: PreRanker) -> None:
    client, generation = triton.client, ranker.generation.name
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("prerank") and client.is_model_ready("prerank", generation)
    metadata = triton.metadata()
    assert metadata["versions"] == [generation]
    assert {"candidates", "history", "user.user_id", "user.city"} <= {each["name"] for each in metadata["inputs"]}
    server = client.get_server_metadata()
    assert (server["name"] if triton.over == "http" else server.name) == "prerank"


@pytest.mark.parametrize("binary_out", [False, True])
@pytest.mark.parametrize("binary_in", [False, True])
def test_triton_gets_the_scores_of_the_process(
    triton: Triton, ranker: PreRanker, expected: dict[str, Any], binary_in: bool, binary_out: bool
) -> None:
    parameters = {"k": 10, "ranking": "ecpm"}
    answer = triton.infer(INPUTS, binary_in, binary_out, request_id="7", parameters=parameters)
    given = {name: [_text(each) for each in answer.as_numpy(name).tolist()] for name in OUTPUTS}
    assert given == expected
    version, facts = triton.told(answer)
    assert version == ranker.generation.name and facts["coverage"] == 1 - 1 / 81


def test_triton_need_not_name_outputs(triton: Triton, ranker: PreRanker) -> None:
    sent = [triton._tensor("candidates", np.arange(5), binary=True)]
    answer = triton.client.infer("prerank", sent, model_version=ranker.generation.name)
    assert answer.as_numpy("ids").tolist() == [] and answer.as_numpy("unknown").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("inputs", "model", "status", "field"),
    [
        ({"user.cty": ["x"], "candidates": ITEMS[:2]}, "prerank", ("400", "INVALID_ARGUMENT"), "user.cty"),
        ({"user.city": ["x"]}, "prerank", ("400", "INVALID_ARGUMENT"), "inputs.candidates"),
        (
            {"candidates": ITEMS[:2], "columns.bid": [1.0]},
            "prerank",
            ("400", "INVALID_ARGUMENT"),
            "columns.bid",
        ),
        ({"candidates": ITEMS[:2]}, "another", ("404", "NOT_FOUND"), "another"),
    ],
)
def test_triton_raises_its_own_errors(triton: Triton, inputs: Any, model: str, status: Any, field: str) -> None:
    for binary in (False, True):
        with pytest.raises(triton.module.InferenceServerException) as refused:
            triton.infer(inputs, binary, model=model)
        code = refused.value.status().removeprefix("StatusCode.")
        assert code == status[triton.over == "grpc"] and field in refused.value.message()


def test_triton_deadlines_and_compression(triton: Triton) -> None:
    with pytest.raises(triton.module.InferenceServerException, match=r"(?i)deadline"):
        triton.infer(INPUTS, parameters={"deadline_ms": 1} if triton.over == "http" else None, **_late(triton))
    if triton.over == "grpc":
        with pytest.raises(triton.module.InferenceServerException, match="'gzip' is disabled"):
            triton.infer(INPUTS, compression_algorithm="gzip")


def _late(triton: Triton) -> dict[str, Any]:
    return {} if triton.over == "http" else {"client_timeout": 1e-6}


def test_messages_are_those_of_the_protocol() -> None:
    """Numbers and types of every field are those that NVIDIA's client was generated with."""
    theirs: Any = import_module("tritonclient.grpc.service_pb2")
    from prerank.service.open.protobuf import CLASSES  # noqa: PLC0415  # after the client: the other order is below

    places = {
        "ModelRequest": (theirs.ModelReadyRequest, theirs.ModelMetadataRequest),
        "TensorMetadata": (theirs.ModelMetadataResponse.TensorMetadata,),
        "Parameter": (theirs.InferParameter,),
        "Contents": (theirs.InferTensorContents,),
        "Tensor": (theirs.ModelInferRequest.InferInputTensor, theirs.ModelInferResponse.InferOutputTensor),
        "RequestedOutput": (theirs.ModelInferRequest.InferRequestedOutputTensor,),
    }
    for name in MESSAGES:
        for other in places.get(name) or (getattr(theirs, name),):
            assert _fields(CLASSES[name].DESCRIPTOR) == _fields(other.DESCRIPTOR), name


def _fields(descriptor: Any) -> dict[str, Any]:
    """Names and types of a message's fields by number; of messages in it, only that they are."""
    return {
        field.name: (field.number, field.type, field.is_repeated, field.containing_oneof is not None)
        for field in descriptor.fields
    }


@pytest.mark.parametrize(
    "order", [("tritonclient.grpc", "prerank.service.open.rpc"), ("prerank.service.open.rpc", "tritonclient.grpc")]
)
def test_server_and_client_may_be_in_one_process(order: tuple[str, str]) -> None:
    program = f"import {order[0]}, {order[1]}; import tritonclient.grpc.service_pb2 as pb; pb.ModelInferRequest()"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture(scope="module")
def kserve(service: Running) -> dict[str, Any]:
    """What KServe's client says, in the environment that it has for itself."""
    inputs = [
        {"name": name, "values": values, "datatype": {str: "BYTES", int: "INT64", float: "FP64"}[type(values[0])]}
        for name, values in INPUTS.items()
    ]
    wrong = {"name": "user.cty", "values": ["x"], "datatype": "BYTES"}
    cases = [
        {"inputs": inputs, "parameters": {"k": 10, "ranking": "ecpm"}},
        {"inputs": [*inputs, wrong]},
        {"inputs": inputs, "model": "another"},
    ]
    command = [
        os.environ["PRERANK_KSERVE"],  # its interpreter, set by make clients
        str(Path(__file__).with_name("kserve_client.py")),
        str(service.port),
        str(service.rpc_port),
    ]
    done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, check=False, env=PLAIN)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("way", ["rest, by type", "rest, bytes", "rpc, by type", "rpc, bytes"])
def test_kserve_gets_the_scores_of_the_process(kserve: dict[str, Any], expected: dict[str, Any], way: str) -> None:
    answer, wrong, another = kserve[way]
    answer.pop("version")
    assert answer == expected
    rest = way.startswith("rest")
    assert "user.cty" in wrong["error"] and ("'400 " if rest else "StatusCode.INVALID_ARGUMENT") in wrong["error"]
    assert "another" in another["error"] and ("'404 " if rest else "StatusCode.NOT_FOUND") in another["error"]


def test_kserve_health(kserve: dict[str, Any]) -> None:
    assert kserve["health"] == [True] * 6


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def test_answers_are_as_described(service: Running) -> None:
    """No status, type or form of an answer that the OpenAPI page does not have, and no fault.

    A 503 is none where a deadline cannot be met, and one is tried that cannot; a 500 is never right.
    """
    checks = "status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance"
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"http://127.0.0.1:{service.port}/openapi.json",
        "--checks", checks, "--max-examples", "300", "--phases", "coverage,fuzzing", "--seed", "1", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=service.log.parent, env=PLAIN)
    print(done.stdout)  # noqa: T201  # its summary
    assert done.returncode == 0, done.stdout
    (generated,) = re.findall(r"(\d+) generated", done.stdout)
    assert int(generated) >= 2000
    assert not [series for series in service.numbers() if 'status="500"' in series]
