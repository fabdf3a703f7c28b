"""The open protocol gives the in-process scores, to the last bit, in JSON and in bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.service.conftest import Running
from tests.service.tensors import INFER, as_bytes, as_tensors, outputs, send_bytes, send_json, tensor
from tests.service.test_rank import ITEMS, REQUESTS

from prerank.serving.preranker import PreRanker

pytestmark = pytest.mark.xdist_group("service")

MODEL = "/v2/models/prerank"
EXPRESSIBLE = sorted(set(REQUESTS) - {"null values", "history of records", "nothing known", "nothing"})
# A tensor has one type and no nulls.
EXTRA: dict[str, dict[str, Any]] = {
    "history of records": {"candidates": ITEMS[:9], "history": [{"category": "category-2"}, {"category": "x"}]},
    "integers": {"candidates": [1, 2, 3]},
    "mixed": {"candidates": ["item-0001", "5"]},
}
ALL = {**{name: REQUESTS[name] for name in EXPRESSIBLE}, **EXTRA}


def expected(ranker: PreRanker, request: dict[str, Any]) -> dict[str, Any]:
    answer = ranker.rank(**{"user": {}, **request})
    scores, values = answer.scores.tolist(), answer.values.tolist()
    return {"ids": answer.ids, "values": values, "scores": scores, "unknown": answer.unknown}


@pytest.mark.parametrize("name", ALL)
def test_json_and_bytes(service: Running, ranker: PreRanker, name: str) -> None:
    truth, content = expected(ranker, ALL[name]), as_tensors(ALL[name])
    for answer in (send_json(service, content), send_bytes(service, *as_bytes(content))):
        assert answer.status == 200, answer.raw
        assert outputs(answer) == truth


def test_what_comes_with_it(service: Running, ranker: PreRanker) -> None:
    content = {**as_tensors(REQUESTS["everything"]), "id": "request 7"}
    answer = send_json(service, content).json
    generation = ranker.generation.name
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("prerank", generation, "request 7")
    assert answer["parameters"] == {
        "generation": generation,
        "coverage": 1 - 1 / 82,
        "duplicates": 1,
        "unknown_history": 1,
        "unscored": 0,
        "degraded": False,
    }


def test_no_candidates(service: Running) -> None:
    for datatype in ("BYTES", "INT64"):
        answer = send_json(service, {"inputs": [tensor("candidates", [], datatype)]})
        assert answer.status == 200 and outputs(answer) == {"ids": [], "values": [], "scores": [], "unknown": []}


def test_outputs_are_those_asked_for(service: Running, ranker: PreRanker) -> None:
    content = as_tensors({"candidates": ITEMS[:4]})
    wanted = [{"name": "scores", "parameters": {"binary_data": True}}, {"name": "ids"}]
    answer = send_json(service, {**content, "outputs": wanted})
    truth = expected(ranker, {"candidates": ITEMS[:4]})
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert outputs(answer) == {"scores": truth["scores"], "ids": truth["ids"]}


def test_types_that_mean_the_same(service: Running, ranker: PreRanker) -> None:
    """A batch of one, nested or flat; small integers; numbers as FP32."""
    base = {"candidates": [1, 2, 3], "columns": {"bid": [3.0, 1.0, 2.0]}, "ranking": "bid"}
    truth = expected(ranker, base)
    bid = tensor("columns.bid", [3.0, 1.0, 2.0], "FP32")
    for candidates in (
        tensor("candidates", [1, 2, 3], "INT64", shape=[1, 3]),
        tensor("candidates", [[1, 2, 3]], "INT64", shape=[1, 3]),
        tensor("candidates", [1, 2, 3], "INT8"),
    ):
        content = {"inputs": [candidates, bid], "parameters": {"ranking": "bid"}}
        assert outputs(send_json(service, content)) == truth
        if candidates["data"] == [1, 2, 3]:
            assert outputs(send_bytes(service, *as_bytes(content))) == truth


def test_no_content_type_is_needed(service: Running) -> None:
    """Triton's client sends none."""
    body = json.dumps(as_tensors({"candidates": ITEMS[:2]})).encode()
    assert service.call("POST", INFER, body, {}).status == 200


def test_metadata_names_what_is_read(service: Running, ranker: PreRanker) -> None:
    assert service.call("GET", "/v2").json["extensions"] == ["binary_tensor_data"]
    assert service.call("GET", "/v2/").json == service.call("GET", "/v2").json
    model = service.call("GET", MODEL).json
    assert model["versions"] == [ranker.generation.name]
    names = [each["name"] for each in model["inputs"]]
    assert names == [
        "candidates", "history", "history.item_id", "history.category", "user.user_id", "user.city"
    ]  # fmt: skip
    assert [each["name"] for each in model["outputs"]] == ["ids", "values", "scores", "unknown"]
    # Of the types that it names, each input is taken.
    inputs = [
        tensor(each["name"], ["item-0001"] if each["datatype"] == "BYTES" else [1.0], each["datatype"])
        for each in model["inputs"]
        if not each["name"].startswith("history.")
    ]
    assert send_json(service, {"inputs": inputs}).status == 200


def test_versions_are_generations(service: Running, ranker: PreRanker) -> None:
    version = f"{MODEL}/versions/{ranker.generation.name}"
    assert service.call("GET", version).json == service.call("GET", MODEL).json
    assert service.call("GET", f"{version}/ready").json == {"name": "prerank", "ready": True}
    content = as_tensors({"candidates": ITEMS[:2]})
    assert send_json(service, content, path=f"{version}/infer").status == 200
    for method, path in (("GET", ""), ("GET", "/ready"), ("POST", "/infer")):
        answer = service.call(method, f"{MODEL}/versions/1{path}", content if method == "POST" else None)
        assert (answer.status, answer.error) == (
            404,
            f"version '1': is not served; versions: {version.rsplit('/', maxsplit=1)[-1]}",
        )
        answer = service.call(method, f"/v2/models/other{path}", content if method == "POST" else None)
        assert (answer.status, answer.error) == (404, "model 'other': is not served; models: prerank")


def test_health(service: Running) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", f"{MODEL}/ready"):
        assert service.call("GET", path).status == 200


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "a" * 3000, "prerank%20", "%ff", "PRERANK", "."]
)
def test_no_name_of_a_path_is_a_file(service: Running, name: str) -> None:
    for path in (f"/v2/models/{name}", f"/v2/models/{name}/infer", f"/v2/models/prerank/versions/{name}", f"/{name}"):
        for method in ("GET", "POST"):
            answer = service.call(method, path, b"{}" if method == "POST" else None)
            assert 400 <= answer.status < 500 and answer.error
