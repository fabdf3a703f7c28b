"""Many requests at once are answered as one by one, and as evaluation scores them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tests.small import small_config

from prerank.cli.serving import rank_lines
from prerank.data.build import build
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset
from prerank.data.log import Dataset, RawLog
from prerank.data.protocol import Protocol
from prerank.data.sources.synthetic import checkerboard
from prerank.errors import RequestError
from prerank.evaluation.evaluate import evaluate
from prerank.models.registry import MODELS, create
from prerank.publish import many
from prerank.publish.bundle import Bundle
from prerank.publish.publish import publish_bundle
from prerank.publish.updates import ItemUpdates
from prerank.serving.preranker import PreRanker, Ranked
from prerank.serving.request import Request

USERS, ITEMS = 30, 60
IDS = [f"item-{number:04d}" for number in range(ITEMS)]


def of_records(log: RawLog) -> RawLog:
    """The same log whose histories are records of categories."""
    schema = log.schema.model_copy(update={"history": ("category",), "history_of": "records"})
    records = log.events.join(log.items, left_on="item", right_on="item_id").select("user", "time", "category")
    labels = log.events.with_columns(label=pl.int_range(pl.len()) % 2)
    return RawLog("records", schema, log.users, log.items, labels, records)


def publish(name: str, data: Dataset, to: Path) -> tuple[PreRanker, Bundle]:
    torch.manual_seed(1)
    encoder = Encoder.fit(data)
    config = small_config(name, embedding=4, embedding_std=1.0, tower=[16, 8], meta_queries=8)
    bundle = Bundle(create(config, encoder.inputs).eval(), encoder, config, {})
    publish_bundle(bundle, data, to)
    return PreRanker.load(to), bundle


@pytest.fixture(scope="module")
def data() -> Dataset:
    return build(
        checkerboard(USERS, ITEMS, events_per_user=8, seed=2), Protocol(labels="sampled", history=5, test_size=2)
    )


@pytest.fixture(scope="module")
def ranker(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> PreRanker:
    return publish("fit", data, tmp_path_factory.mktemp("fit"))[0]


def random_requests(rng: np.random.Generator, count: int, past: Any = IDS) -> list[Request]:
    """Requests of every size, with repeated and unknown ids, from 0 candidates and past items on."""
    ids = [*IDS, "nothing", 7]

    def some(values: Any, most: int) -> list[Any]:
        return [values[place] for place in rng.integers(len(values), size=rng.integers(most + 1))]

    return [
        Request(
            user={"user_id": int(rng.integers(USERS + 2)), "city": [None, "city-1"][rng.integers(2)]},
            candidates=(candidates := some(ids, 40)),
            k=[None, 3][rng.integers(2)],
            ranking=["score", "probability * bid"][rng.integers(2)],
            history=some(past, 9),
            columns={"bid": rng.uniform(0, 1, len(candidates))},
        )
        for _ in range(count)
    ]


def same(many_at_once: list[Ranked], ranker: PreRanker, requests: list[Request]) -> None:
    assert len(many_at_once) == len(requests)
    for got, request in zip(many_at_once, requests, strict=True):
        one = ranker.rank(**{name: getattr(request, name) for name in Request.__dataclass_fields__})
        np.testing.assert_allclose(got.values, one.values, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got.scores, one.scores, rtol=1e-5, atol=1e-5)
        assert (got.unknown, got.duplicates, got.unknown_history, got.generation) == (
            one.unknown, one.duplicates, one.unknown_history, one.generation,
        )  # fmt: skip
        whole = ranker.rank(**{name: getattr(request, name) for name in Request.__dataclass_fields__} | {"k": None})
        values = dict(zip(whole.ids, whole.values, strict=True))  # places of items with nearly equal values may differ
        np.testing.assert_allclose([values[item] for item in got.ids], one.values, rtol=1e-5, atol=1e-5)
        assert len(set(got.ids)) == len(got.ids)


@pytest.mark.parametrize("history_of", ["items", "records"])
@pytest.mark.parametrize("model", MODELS)
def test_as_one_by_one(
    model: str, history_of: str, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    past: list[Any] = list(IDS)
    if history_of == "records":
        data = build(
            of_records(checkerboard(USERS, ITEMS, 8, seed=2)), Protocol(labels="given", history=5, test_size=2)
        )
        past = [{"category": f"category-{group}"} for group in range(9)]
    ranker, _ = publish(model, data, tmp_path)
    requests = random_requests(rng, 25, past)
    monkeypatch.setattr(many, "PAIRS", 60)  # several batches
    for alone in (1, 20, 1000):  # all by the plan, some, none
        monkeypatch.setattr(
            many, "ALONE_WITH_QUERIES" if ranker.generation.bundle.model.index_columns else "ALONE", alone
        )
        same(ranker.rank_many(requests), ranker, requests)


@pytest.mark.parametrize("model", ["fit", "two_tower", "din"])
def test_as_evaluation(model: str, data: Dataset, tmp_path: Path) -> None:
    """Every request of the test part, told as raw values, in one call: the logits of ``evaluate``."""
    ranker, bundle = publish(model, data, tmp_path)
    expected = evaluate(bundle.model, EncodedDataset(data, bundle.encoder), "test", torch.device("cpu"), epochs=1.0)
    test, schema = data.parts["test"], data.schema
    requests = [
        Request(
            user=data.users.select(field.name for field in schema.user).row(int(user), named=True),
            candidates=data.items[schema.item_id][items.astype(np.int64)].to_list(),
            history=data.items[schema.item_id][
                data.timelines.entries[data.timelines.offsets[user] : end].astype(np.int64)
            ].to_list(),
        )
        for user, end, items in zip(test.users, test.ends, test.items, strict=True)
    ]
    answers = [dict(zip(one.ids, one.scores, strict=True)) for one in ranker.rank_many(requests)]
    served = [by_id[item] for by_id, request in zip(answers, requests, strict=True) for item in request.candidates]
    np.testing.assert_allclose(served, expected.logits, rtol=1e-5, atol=1e-5)


def test_upserted_items_are_known(data: Dataset, tmp_path: Path) -> None:
    ranker, _ = publish("fit", data, tmp_path)
    ItemUpdates.open(tmp_path).upsert([{"item_id": "new", "category": "category-1"}])
    requests = [Request({"user_id": 1}, ["new", *IDS[:count]], history=[IDS[count], "new"]) for count in range(5)]
    answers = ranker.rank_many(requests)
    assert all("new" in one.ids and one.unknown_history == 0 for one in answers)
    same(answers, ranker, requests)


def test_nothing_asked(ranker: PreRanker) -> None:
    assert ranker.rank_many([]) == []
    (answer,) = ranker.rank_many(iter([Request({}, [])]))
    assert answer.ids == [] and answer.scores.shape == (0,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Request([], IDS), "requests[2]: user: expected a mapping of names to values, got list"),  # type: ignore[arg-type]
        (Request({"age": 3}, IDS), "requests[2]: user.age: unknown field; fields: city, user_id"),
        (Request({}, [IDS[0], 1.5]), "requests[2]: candidates[1]: an item id is an integer or a text, got 1.5"),  # type: ignore[list-item]
        (Request({}, IDS, history=[None]), "requests[2]: history[0]: an item id is an integer or a text, got None"),
        (Request({}, ["x"], unknown="error"), "requests[2]: candidates: 1 not in the catalogue, the first is 'x'"),
        (Request({}, IDS, ranking="bid"), "requests[2]: ranking 'bid': unknown column 'bid'"),
    ],
)
def test_the_wrong_one_is_named(ranker: PreRanker, wrong: Request, message: str) -> None:
    right = Request({"user_id": 1}, IDS[:5], history=IDS[:2])
    with pytest.raises(RequestError) as caught:
        ranker.rank_many([right, right, wrong, right])
    assert str(caught.value).startswith(message)


def test_lines_in_and_out(
    ranker: PreRanker, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prerank.cli.serving.BLOCK", 2)
    file = tmp_path / "requests.jsonl"
    asked = [{"user": {"user_id": n}, "candidates": IDS[n:], "history": IDS[:n], "k": n + 1} for n in range(5)]
    file.write_text("\n".join(map(json.dumps, asked)))
    rank_lines(ranker, file)
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["ids"] for answer in answers] == [ranker.rank(**one).ids for one in asked]  # type: ignore[arg-type]
    assert set(answers[0]) == set(Ranked.__dataclass_fields__)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 4: not valid JSON"),
        ("", "line 4: not valid JSON"),
        ("[]", "line 4: expected an object of fields, got list"),
        ('{"user": {}}', "line 4: candidates: is missing"),
        ('{"user": {}, "candidates": [], "K": 3}', "line 4: K: unknown field; fields: user, candidates, k"),
        ('{"user": {}, "candidates": [], "k": 0}', "line 4: k: expected a whole number of at least 1, got 0"),
        ('{"user": {}, "candidates": [], "ranking": 3}', "line 4: ranking: expected a text, got int"),
        ('{"user": {"age": 3}, "candidates": []}', "line 4: user.age: unknown field"),
    ],
)
def test_the_wrong_line_is_named(ranker: PreRanker, tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "requests.jsonl"
    right = '{"user": {}, "candidates": ["item-0001"]}'
    file.write_text("\n".join([right, right, right, line, right]))
    with pytest.raises(RequestError, match=rf"^{file}: ") as caught:
        rank_lines(ranker, file)
    assert message in str(caught.value) and "\n" not in str(caught.value)
