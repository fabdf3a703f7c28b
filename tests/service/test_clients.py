"""Software of others against the service.

NVIDIA's client of the open protocol gets the in-process scores, to the last bit: its tensors are numpy arrays, sent in
JSON or in bytes, and it reads what comes back by its own code. Schemathesis reads the OpenAPI page and tries requests.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.service.conftest import Running
from tests.service.test_rank import ITEMS

from prerank.serving.preranker import PreRanker

triton: Any = pytest.importorskip("tritonclient.http", reason="run by make clients")

pytestmark = [pytest.mark.xdist_group("service"), pytest.mark.filterwarnings("default"), pytest.mark.timeout(1800)]

PLAIN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
CANDIDATES = [*ITEMS, "not there"]
BID = np.linspace(0.5, 2, len(CANDIDATES))


@pytest.fixture(scope="module")
def client(service: Running) -> Iterator[Any]:
    client = triton.InferenceServerClient(f"127.0.0.1:{service.port}")
    yield client
    client.close()


def tensor(name: str, values: Any, binary: bool) -> Any:
    array = np.array(values, dtype=object) if isinstance(values[0], str) else np.asarray(values)
    kind = {"O": "BYTES", "i": "INT64", "f": "FP64"}[array.dtype.kind]
    made = triton.InferInput(name, list(array.shape), kind)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def test_health_and_metadata(client: Any, ranker: PreRanker) -> None:
    generation = ranker.generation.name
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("prerank") and client.is_model_ready("prerank", generation)
    assert not client.is_model_ready("another") and not client.is_model_ready("prerank", "1")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("prerank")
    assert metadata["versions"] == [generation]
    assert {"candidates", "history", "user.user_id", "user.city"} <= {each["name"] for each in metadata["inputs"]}


@pytest.mark.parametrize("binary_out", [False, True])
@pytest.mark.parametrize("binary_in", [False, True])
def test_scores_are_those_of_the_process(client: Any, ranker: PreRanker, binary_in: bool, binary_out: bool) -> None:
    inputs = [
        tensor("candidates", CANDIDATES, binary_in),
        tensor("history", ITEMS[20:30], binary_in),
        tensor("user.user_id", [7], binary_in),
        tensor("user.city", ["city-1"], binary_in),
        tensor("columns.bid", BID, binary_in),
    ]
    wanted = ("ids", "values", "scores", "unknown")
    answer = client.infer(
        "prerank",
        inputs,
        outputs=[triton.InferRequestedOutput(name, binary_data=binary_out) for name in wanted],
        request_id="7",
        parameters={"k": 10, "ranking": "ecpm"},
    )
    expected = ranker.rank(
        {"user_id": 7, "city": "city-1"}, CANDIDATES, 10, "ecpm", history=ITEMS[20:30], columns={"bid": BID}
    )
    given = {name: answer.as_numpy(name) for name in wanted}
    texts = {name: [_text(each) for each in given[name].tolist()] for name in ("ids", "unknown")}
    assert texts == {"ids": expected.ids, "unknown": ["not there"]}
    assert np.array_equal(given["scores"], expected.scores) and np.array_equal(given["values"], expected.values)
    response = answer.get_response()
    assert (response["id"], response["model_version"]) == ("7", ranker.generation.name)
    assert response["parameters"]["coverage"] == 1 - 1 / 81


def test_outputs_need_not_be_named(client: Any, ranker: PreRanker) -> None:
    """The client then asks for bytes by a parameter of the request."""
    answer = client.infer("prerank", [tensor("candidates", np.arange(5), True)], model_version=ranker.generation.name)
    assert answer.as_numpy("ids").tolist() == [] and answer.as_numpy("unknown").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("inputs", "model", "status", "field"),
    [
        ([("user.cty", ["x"]), ("candidates", ITEMS[:2])], "prerank", "400", "user.cty"),
        ([("user.city", ["x"])], "prerank", "400", "inputs.candidates"),
        ([("candidates", ITEMS[:2]), ("columns.bid", [1.0])], "prerank", "400", "columns.bid"),
        ([("candidates", ITEMS[:2])], "another", "404", "another"),
    ],
)
def test_errors_are_the_clients_own(client: Any, inputs: Any, model: str, status: str, field: str) -> None:
    for binary in (False, True):
        with pytest.raises(triton.InferenceServerException) as refused:
            client.infer(model, [tensor(name, values, binary) for name, values in inputs])
        assert refused.value.status() == status and field in refused.value.message()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def test_answers_are_as_described(service: Running) -> None:
    """No status, type or form of an answer that the OpenAPI page does not have, and no fault."""
    checks = "status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance"
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"http://127.0.0.1:{service.port}/openapi.json",
        "--checks", checks, "--max-examples", "100", "--phases", "coverage,fuzzing", "--seed", "1", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=service.log.parent, env=PLAIN)
    assert done.returncode == 0, done.stdout
    (generated,) = re.findall(r"(\d+) generated", done.stdout)
    assert int(generated) > 400
    assert not [series for series in service.numbers() if 'status="500"' in series]
