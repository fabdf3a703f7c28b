"""What the service answers is what the in-process path answers, to the last bit."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from tests.service.conftest import Running

from prerank.serving.preranker import PreRanker
from prerank.serving.request import Request

pytestmark = pytest.mark.xdist_group("service")  # one process, so that its server is started once

ITEMS = [f"item-{number:04}" for number in range(80)]
REQUESTS: dict[str, dict[str, Any]] = {
    "candidates only": {"candidates": ITEMS[:5]},
    "everything": {
        "candidates": [*ITEMS, "nothing", ITEMS[3]],
        "user": {"user_id": 7, "city": "city-1"},
        "history": [*ITEMS[20:30], "unheard of"],
        "columns": {"bid": [0.5 + number % 7 for number in range(82)]},
        "k": 10,
        "ranking": "ecpm",
    },
    "a formula": {
        "candidates": ITEMS[:9],
        "columns": {"quality": list(range(9)), "bid": [1] * 9},
        "ranking": "probability * bid if quality > 3 else -quality",
    },
    "history of records": {"candidates": ITEMS[:9], "history": [{"item_id": ITEMS[1]}, {"category": "category-2"}]},
    "nothing": {"candidates": []},
    "nothing known": {"candidates": ["a", 2**70, -5], "unknown": "drop"},
    "null values": {"candidates": ITEMS[:3], "user": {"city": None, "user_id": None}},
    "odd texts": {"candidates": ["", "\0", "ü" * 1000, "item-0001\n", "item-0001"]},
    "large k": {"candidates": ITEMS[:3], "k": 2**62},
}


def expected(ranker: PreRanker, request: dict[str, Any]) -> dict[str, Any]:
    wanted = {"user": {}, **request}
    answer = ranker.rank(**wanted)
    unknown = len(answer.unknown)
    return {
        "ids": answer.ids,
        "values": answer.values.tolist(),
        "scores": answer.scores.tolist(),
        "unknown": answer.unknown,
        "duplicates": answer.duplicates,
        "degraded": False,
        "unknown_history": answer.unknown_history,
        "unscored": 0,
        "coverage": 1 - unknown / len(request["candidates"]) if request["candidates"] else 1,
        "generation": ranker.generation.name,
    }


@pytest.mark.parametrize("name", REQUESTS)
def test_one_request(service: Running, ranker: PreRanker, name: str) -> None:
    answer = service.rank(REQUESTS[name])
    assert answer.status == 200, answer.raw
    assert answer.json == expected(ranker, REQUESTS[name])


def test_the_world_is_not_flat(ranker: PreRanker) -> None:
    scores = ranker.rank({}, ITEMS, history=ITEMS[20:30]).scores
    assert scores.std() > 0.01 and len(set(scores.tolist())) > 40


def test_a_batch(service: Running, ranker: PreRanker) -> None:
    """Exactly what ``rank_many`` answers, which its own tests hold to ``rank``."""
    requests = list(REQUESTS.values())
    answer = service.call("POST", "/v1/rank:batch", {"requests": requests, "deadline_ms": 30_000})
    assert answer.status == 200, answer.raw
    ranked = ranker.rank_many([Request.read({"user": {}, **request}) for request in requests])
    content = [{**expected(ranker, request), **one.content()} for request, one in zip(requests, ranked, strict=True)]
    assert answer.json == {"answers": content, "generation": ranker.generation.name}


def test_unknown_candidates_can_be_an_error(service: Running) -> None:
    answer = service.rank({"candidates": ["x", ITEMS[0]], "unknown": "error"})
    assert (answer.status, answer.error) == (400, "candidates: 1 not in the catalogue, the first is 'x'")


def test_one_connection_answers_many_requests(service: Running) -> None:
    connection = service.connect()
    bodies = [{"candidates": ITEMS[: 1 + number]} for number in range(20)]
    answers = [service.rank(body, connection=connection) for body in bodies]
    assert [len(answer.json["ids"]) for answer in answers] == list(range(1, 21))
    begun = time.perf_counter()
    for _ in range(20):
        service.call("GET", "/healthz/live", connection=connection)
    assert time.perf_counter() - begun < 0.4  # the second packet of a response does not wait for an acknowledgement
    wrong = service.rank({"candidates": 3}, connection=connection)
    assert wrong.status == 400 and service.rank(bodies[0], connection=connection).status == 200


def test_charset_is_welcome(service: Running) -> None:
    answer = service.rank({"candidates": ITEMS[:2]}, headers={"Content-Type": "Application/JSON; charset=utf-8"})
    assert answer.status == 200


def test_metrics_count_what_was_done(service: Running) -> None:
    """Exactly, over a known number of requests."""
    before = service.numbers()
    for _ in range(7):
        service.rank({"candidates": [*ITEMS[:10], "x"], "history": ["y"]})
    service.rank({"candidates": 1})
    service.call("POST", "/v1/rank:batch", {"requests": [{"candidates": ITEMS[:3]}] * 2})
    after = service.numbers()

    def grown(series: str) -> float:
        return after[series] - before.get(series, 0)

    assert grown('prerank_requests_total{endpoint="rank",status="200"}') == 7
    assert grown('prerank_requests_total{endpoint="rank",status="400"}') == 1
    assert grown('prerank_requests_total{endpoint="rank_batch",status="200"}') == 1
    assert grown("prerank_candidates_count") == 9 and grown("prerank_candidates_sum") == 7 * 11 + 2 * 3
    assert grown("prerank_unknown_candidates_total") == 7 and grown("prerank_unknown_history_total") == 7
    assert grown('prerank_request_seconds_count{endpoint="rank"}') == 8
    assert grown("prerank_score_seconds_count") == 8 and grown("prerank_queue_seconds_count") == 8
    assert after["prerank_ready"] == 1 and after["prerank_items"] == 80 and after["prerank_jobs"] == 0
    generation = service.call("GET", "/healthz/ready").json["generation"]
    assert after[f'prerank_generation_info{{generation="{generation}",model="fit"}}'] == 1


def test_every_status_seen_is_described(service: Running) -> None:
    """The OpenAPI page has the endpoints, the fields and the statuses of these tests."""
    page = json.loads(service.call("GET", "/openapi.json").raw)
    assert set(page["paths"]) >= {"/v1/rank", "/v1/rank:batch", "/healthz/live", "/healthz/ready", "/metrics"}
    fields = page["components"]["schemas"]["RankRequest"]["properties"]
    assert set(fields) >= {key for request in REQUESTS.values() for key in request}
    assert set(page["components"]["schemas"]["RankAnswer"]["properties"]) == set(
        service.rank({"candidates": ITEMS[:1]}).json
    )
    assert set(page["paths"]["/v1/rank"]["post"]["responses"]) == {
        "200", "400", "401", "408", "413", "415", "429", "431", "500", "503"
    }  # fmt: skip
    assert set(page["paths"]["/v2/models/{name}/infer"]["post"]["responses"]) == {
        "200", "400", "401", "404", "408", "413", "415", "429", "431", "500", "503"
    }  # fmt: skip
    assert "securitySchemes" not in page["components"]
