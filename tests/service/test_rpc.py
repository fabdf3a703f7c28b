"""The open protocol over gRPC gives the in-process scores, to the last bit, by type and in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tests.service.conftest import Running
from tests.service.rpc import as_message, call, channel_to, refusal, tensors_of
from tests.service.tensors import as_tensors, tensor
from tests.service.test_open_inference import ALL, expected
from tests.service.test_rank import ITEMS, REQUESTS

from prerank.service.open.protobuf import CLASSES
from prerank.serving.preranker import PreRanker

pytestmark = pytest.mark.xdist_group("service")

Model = CLASSES["ModelRequest"]


@pytest.fixture(scope="module")
def channel(service: Running) -> Iterator[Any]:
    with channel_to(service) as channel:
        yield channel


@pytest.mark.parametrize("name", ALL)
def test_by_type_and_in_bytes(channel: Any, ranker: PreRanker, name: str) -> None:
    truth, content = expected(ranker, ALL[name]), as_tensors(ALL[name])
    for in_bytes in (False, True):
        answer = call(channel, "ModelInfer", as_message(content, in_bytes))
        assert tensors_of(answer) == truth
        assert bool(answer.raw_output_contents) == in_bytes  # as it was asked


def test_what_comes_with_it(channel: Any, ranker: PreRanker) -> None:
    answer = call(channel, "ModelInfer", as_message({**as_tensors(REQUESTS["everything"]), "id": "request 7"}, True))
    generation = ranker.generation.name
    assert (answer.model_name, answer.model_version, answer.id) == ("prerank", generation, "request 7")
    facts = {name: getattr(value, value.WhichOneof("choice")) for name, value in answer.parameters.items()}
    assert facts == {
        "generation": generation,
        "coverage": 1 - 1 / 82,
        "duplicates": 1,
        "unknown_history": 1,
        "unscored": 0,
        "degraded": False,
    }


@pytest.mark.parametrize("told", [False, True])
def test_the_form_of_an_answer_can_be_chosen(channel: Any, ranker: PreRanker, told: bool) -> None:
    content = as_tensors({"candidates": ITEMS[:4]})
    content["parameters"] = {"binary_data_output": told}
    content["outputs"] = [{"name": "scores"}, {"name": "ids"}]
    truth = expected(ranker, {"candidates": ITEMS[:4]})
    for in_bytes in (False, True):
        answer = call(channel, "ModelInfer", as_message(content, in_bytes))
        assert bool(answer.raw_output_contents) == told
        assert tensors_of(answer) == {"scores": truth["scores"], "ids": truth["ids"]}


def test_types_that_mean_the_same(channel: Any, ranker: PreRanker) -> None:
    """A batch of one; small integers; numbers as FP32, and as FP16, which there is in bytes only."""
    truth = expected(ranker, {"candidates": [1, 2, 3], "columns": {"bid": [3.0, 1.0, 2.0]}, "ranking": "bid"})
    bid = tensor("columns.bid", [3.0, 1.0, 2.0], "FP32")
    for candidates in (
        tensor("candidates", [1, 2, 3], "INT64", shape=[1, 3]),
        tensor("candidates", [1, 2, 3], "INT8"),
        tensor("candidates", [1, 2, 3], "INT32"),
    ):
        content = {"inputs": [candidates, bid], "parameters": {"ranking": "bid"}}
        for in_bytes in (False, True):
            assert tensors_of(call(channel, "ModelInfer", as_message(content, in_bytes))) == truth
    message = as_message(content, True)
    message.inputs[1].datatype = "FP16"
    message.raw_input_contents[1] = np.array([3, 1, 2], np.float16).tobytes()
    assert tensors_of(call(channel, "ModelInfer", message)) == truth


def test_no_candidates(channel: Any) -> None:
    for datatype in ("BYTES", "INT64"):
        for in_bytes in (False, True):
            answer = call(channel, "ModelInfer", as_message({"inputs": [tensor("candidates", [], datatype)]}, in_bytes))
            assert tensors_of(answer) == {"ids": [], "values": [], "scores": [], "unknown": []}


def test_health_and_metadata(service: Running, channel: Any, ranker: PreRanker) -> None:
    generation = ranker.generation.name
    assert call(channel, "ServerLive").live and call(channel, "ServerReady").ready
    assert call(channel, "ServerMetadata").name == "prerank"
    for version in ("", generation):
        asked = Model(name="prerank", version=version)
        assert call(channel, "ModelReady", asked).ready
        model = call(channel, "ModelMetadata", asked)
        assert (model.name, list(model.versions), model.platform) == ("prerank", [generation], "prerank")
    page = service.call("GET", "/v2/models/prerank").json  # the same as over HTTP
    for side in ("inputs", "outputs"):
        told = [
            {"name": each.name, "datatype": each.datatype, "shape": list(each.shape)} for each in getattr(model, side)
        ]
        assert told == page[side]


@pytest.mark.parametrize("model", ["", "other", "..", "../prerank", "/etc/passwd", "prerank ", "prerank\0", "é" * 3000])
def test_other_models(channel: Any, model: str) -> None:
    infer = as_message(as_tensors({"candidates": ITEMS[:2]}), True, model)
    for name, message in (
        ("ModelReady", Model(name=model)),
        ("ModelMetadata", Model(name=model)),
        ("ModelInfer", infer),
    ):
        refused = refusal(channel, name, message)
        assert refused.code() == grpc.StatusCode.NOT_FOUND and refused.details().startswith("model '")
    infer.model_name, infer.model_version = "prerank", model or "1"
    refused = refusal(channel, "ModelInfer", infer)
    assert refused.code() == grpc.StatusCode.NOT_FOUND and refused.details().startswith("version '")


def test_other_procedures(channel: Any) -> None:
    for path in ("/inference.GRPCInferenceService/RepositoryIndex", "/other.Service/ModelInfer", "/", "/../x"):
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(path)(b"", timeout=30)
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_calls_are_counted(service: Running, channel: Any) -> None:
    def count(code: str) -> float:
        return service.numbers().get(f'prerank_requests_total{{endpoint="ModelInfer",status="{code}"}}', 0)

    before = count("OK"), count("INVALID_ARGUMENT")
    call(channel, "ModelInfer", as_message(as_tensors({"candidates": ITEMS[:2]}), True))
    refusal(channel, "ModelInfer", CLASSES["ModelInferRequest"](model_name="prerank"))
    assert (count("OK"), count("INVALID_ARGUMENT")) == (before[0] + 1, before[1] + 1)
