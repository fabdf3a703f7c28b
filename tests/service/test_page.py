"""What the web page is made of and asks for: its files, the status, items of the catalogue, titles."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.service.conftest import Running
from tests.service.titled import TITLE

from prerank.serving.preranker import PreRanker

pytestmark = pytest.mark.xdist_group("service")


@pytest.mark.parametrize(
    ("path", "media"),
    [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript"), ("/icon.svg", "image/svg+xml")],
)
def test_files_of_the_page_let_nothing_else_in(service: Running, path: str, media: str) -> None:
    answer = service.call("GET", path)
    assert answer.status == 200 and answer.headers["content-type"].startswith(media)
    policy = answer.headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'none'" and "script-src 'self'" in policy
    assert not any("unsafe" in rule or "http" in rule or "*" in rule for rule in policy)
    assert answer.headers["x-content-type-options"] == "nosniff"
    text = answer.raw.decode().replace("http://www.w3.org/2000/svg", "")  # the name of SVG, which nobody fetches
    assert "http://" not in text and "https://" not in text and "<script>" not in text and " style=" not in text
    assert service.call("POST", path, {}).status == 405


def test_the_page_needs_no_token_and_its_data_do(guarded: Running) -> None:
    for path in ("/", "/page.css", "/page.js", "/icon.svg"):
        assert guarded.call("GET", path).status == 200
    for method, path in (("GET", "/v1/status"), ("GET", "/v1/items"), ("POST", "/v1/titles")):
        assert guarded.call(method, path, {"ids": []}).status == 401
        headers = {"Content-Type": "application/json", "Authorization": "Bearer open-sesame"}
        assert guarded.call(method, path, {"ids": []}, headers=headers).status == 200


def test_status_tells_what_is_served_and_counts_ranking_requests(titles: Running, titled: Path) -> None:
    store = PreRanker.load(titled).generation.store
    first = titles.call("GET", "/v1/status").json
    assert first["status"] == "ready" and first["model"] == "fit" and first["generation"] == store.generation
    assert [field["name"] for field in first["fields"]["user"]] == ["user_id", "city", "tags"]
    assert {field["name"]: field["kind"] for field in first["fields"]["context"]} == {"hour": "numeric"}
    assert first["fields"]["history_ids"]
    expected = {
        "items": 80,
        "upserted": 0,
        "bytes": store.nbytes,
        "precision": "float32",
        "row_bytes": 32,
        "shared": None,
    }
    assert first["store"] == expected
    for _ in range(3):
        assert titles.rank({"candidates": ["item-0001"]}).status == 200
    assert titles.rank({"candidates": 1}).status == 400
    titles.call("GET", "/metrics")
    then = titles.call("GET", "/v1/status").json
    grown = {status: then["answered"][status] - first["answered"].get(status, 0) for status in then["answered"]}
    assert grown == {"200": 3, "400": 1}
    assert sum(then["latency"]["counts"]) - sum(first["latency"]["counts"]) == 4
    assert len(then["latency"]["counts"]) == len(then["latency"]["bounds"]) + 1


def test_a_sample_is_of_items_that_can_be_ranked(titles: Running) -> None:
    answer = titles.call("GET", "/v1/items?count=30").json
    ids = [item["id"] for item in answer["items"]]
    assert len(set(ids)) == 30 and all(item["title"] in (f"The {item['id']}", TITLE) for item in answer["items"])
    assert titles.rank({"candidates": ids}).json["unknown"] == []
    assert ids != [item["id"] for item in titles.call("GET", "/v1/items?count=30").json["items"]]
    assert len(titles.call("GET", "/v1/items?count=200").json["items"]) == 80
    assert len(titles.call("GET", "/v1/items").json["items"]) == 50


def test_a_catalogue_of_hashes_has_no_sample(service: Running) -> None:
    assert service.call("GET", "/v1/items").json["items"] == []


@pytest.mark.parametrize("count", ["0", "201", "-1", "x", "1.5", "", "%C2%B2", "9" * 30])
def test_a_wrong_count_is_named(titles: Running, count: str) -> None:
    answer = titles.call("GET", f"/v1/items?count={count}")
    assert answer.status == 400 and answer.error.startswith("count: ")


def test_titles_come_in_the_order_of_the_ids(titles: Running) -> None:
    answer = titles.call("POST", "/v1/titles", {"ids": ["item-0003", "gone", "item-0001", "item-0003"]}).json
    assert answer["titles"] == ["The item-0003", None, "The item-0001", "The item-0003"]


@pytest.mark.parametrize(
    "body", [{}, {"ids": 1}, {"ids": [1.5]}, {"ids": [None]}, {"ids": [], "k": 1}, {"ids": ["x"] * 10_001}]
)
def test_wrong_lists_of_ids_are_named(titles: Running, body: object) -> None:
    answer = titles.call("POST", "/v1/titles", body)
    assert answer.status == 400 and answer.error.startswith(("ids", "k:"))
