"""Pair features on the whole way: from events or histories to published models that answer requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import torch

from prerank.cli.main import app
from prerank.data.build import build
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset, Loader
from prerank.data.log import Dataset, RawLog
from prerank.data.protocol import Protocol
from prerank.errors import ConfigError, RequestError
from prerank.evaluation.evaluate import evaluate
from prerank.evaluation.metrics import auc
from prerank.models.cold import COLDConfig
from prerank.models.rankers.fm import FM
from prerank.models.rankers.lr import LR
from prerank.models.registry import MODELS, create, model_config
from prerank.models.single_tower import SingleTower
from prerank.models.target_attention import TargetAttention
from prerank.publish.bundle import Bundle
from prerank.publish.compact import compact
from prerank.publish.publish import publish_bundle
from prerank.publish.updates import ItemUpdates
from prerank.schema import Schema
from prerank.service.messages import RankRequest
from prerank.service.open.rank_tensors import RankParameters, describe, to_request
from prerank.service.open.tensors import Tensor
from prerank.serving.preranker import PreRanker
from prerank.serving.request import Request
from prerank.study.experiment import run_experiment
from prerank.study.selection import select_fields
from prerank.training.config import RunConfig, read_run
from prerank.training.trainer import Quiet, train

USERS, ITEMS, EVENTS = 60, 40, 6000
GENRES = ["art", "war", "sport"]
READERS = [name for name, entry in MODELS.items() if entry.model.reads_pairs]


def world(decides: str) -> tuple[RawLog, Any]:
    """Impressions whose click depends on nothing but one pair feature: a given number, or a count of the history.

    Every impression becomes a behaviour. ``past`` is the number of the last three that share a genre with the item.
    Also returns the logits of all events.
    """
    rng = np.random.default_rng(7)
    genres = [sorted(rng.choice(GENRES, size=rng.integers(1, 3), replace=False)) for _ in range(ITEMS)]
    user, item = rng.integers(USERS, size=EVENTS), rng.integers(ITEMS, size=EVENTS)
    seen: dict[int, list[int]] = {}
    past = []
    for who, what in zip(user.tolist(), item.tolist(), strict=True):
        mine = seen.setdefault(who, [])
        past.append(sum(bool(set(genres[what]) & set(genres[other])) for other in mine[-3:]))
        mine.append(what)
    gap = rng.normal(0, 10, EVENTS)
    logit = 0.5 * gap if decides == "price_gap" else 4.0 * (np.array(past) - 1.7)
    events = pl.DataFrame(
        {
            "user": user,
            "item": item,
            "time": np.arange(EVENTS),
            "label": (rng.random(EVENTS) < 1 / (1 + np.exp(-logit))).astype(np.int8),
            "price_gap": gap,
            "badge": rng.choice(["new", "hot"], EVENTS),
        }
    )
    items = pl.DataFrame({"item": np.arange(ITEMS), "genres": genres})
    schema = Schema.model_validate(
        {
            "user_id": "user",
            "item_id": "item",
            "user": ["user"],
            "item": ["item", {"name": "genres", "kind": "multi"}],
            "pair": [
                {"name": "price_gap", "kind": "numeric"},
                "badge",
                {"name": "genre_matches", "match": "genres"},
                {"name": "seen", "match": "item", "numeric": "scale"},
            ],
            "history": ["item", "genres"],
        }
    )
    return RawLog("pairs", schema, pl.DataFrame({"user": np.arange(USERS)}), items, events), logit


def log(history_of: str) -> RawLog:
    """The world, with histories of items or of records that say the same."""
    raw, _ = world("price_gap")
    if history_of == "items":
        return raw
    records = raw.events.select("user", "time", "item").join(raw.items, on="item", maintain_order="left")
    return replace(raw, schema=raw.schema.model_copy(update={"history_of": "records"}), records=records)


def dataset(raw: RawLog) -> Dataset:
    return build(raw, Protocol(labels="given", test="time", test_size=1500, history=3))


def config(model: str, out: Path, **training: Any) -> RunConfig:
    settings = {"batch_rows": 256, "max_epochs": 6, "learning_rate": 0.03, "device": "cpu", **training}
    small = {"embedding": 4, "embedding_std": 0.1, "tower": (8,)}
    return RunConfig.model_validate(
        {"data": out / "data", "model": {"name": model, **fitting(model, small)}, "training": settings}
    )


def fitting(model: str, values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values that the model has; a logistic regression has no width to choose."""
    known = set(MODELS[model].config.model_fields) - ({"embedding"} if model == "lr" else set())
    return {name: value for name, value in values.items() if name in known}


@pytest.mark.parametrize("decides", ["price_gap", "genre_matches"])
def test_what_only_the_pair_tells_is_found_by_models_that_read_it(decides: str, tmp_path: Path) -> None:
    data = dataset(world(decides)[0])
    encoded = EncodedDataset(data, Encoder.fit(data))

    def found(model: str) -> float:
        run = train(config(model, tmp_path), encoded, tmp_path / model, Quiet())
        result = evaluate(run.model, encoded, "test", torch.device("cpu"), epochs=run.epochs)
        return float(result.metrics["auc"])

    rows = data.parts["test"]
    best = auc(np.asarray(rows.labels)[:, 0], world(decides)[1][rows.times])  # the time of an event is its number
    assert best > 0.85
    readers = ("wide_deep", "lr", "cold", "fscd")
    assert {name: found(name) for name in readers} == pytest.approx(dict.fromkeys(readers, best), abs=0.03)
    if decides == "price_gap":  # genres that match are in reach of two towers
        assert found("two_tower") == pytest.approx(0.5, abs=0.05)


def test_selection_ranks_pair_fields_and_a_model_may_leave_them_out(tmp_path: Path) -> None:
    """The one field that tells comes first; COLD without any pair field is published, which compares its scores."""
    data = dataset(world("price_gap")[0])
    data.save(tmp_path / "data")
    selection = select_fields(config("cold", tmp_path), tmp_path / "se", 3, "se", {})
    assert selection["fields"][0]["field"] == "pair.price_gap"
    few = model_config(read_run(tmp_path / "se" / "retrain.yaml").model, "test")
    assert isinstance(few, COLDConfig) and few.fields == ("user.user", "history.genres", "item.genres")
    encoder = Encoder.fit(data)
    publish_bundle(Bundle(create(few, encoder.inputs).eval(), encoder, few, {}), data, tmp_path / "out")
    assert PreRanker.load(tmp_path / "out").generation.store.matches is None
    with pytest.raises(ConfigError, match="two_tower reads no pair fields; choose on data without them"):
        select_fields(config("two_tower", tmp_path), tmp_path / "none", 3, "se", {})


@pytest.mark.parametrize("model", READERS)
def test_training_reaches_every_pair_field(model: str) -> None:
    data = dataset(log("items"))
    encoder = Encoder.fit(data)
    torch.manual_seed(0)
    made = create(model_config({"name": model, **fitting(model, {"embedding_std": 0.5})}, "test"), encoder.inputs)
    made.train()
    logits, losses = made.relaxed(next(Loader(EncodedDataset(data, encoder), "train", 200).batches()), 0.0)
    (logits.square().mean() + sum(losses.values())).backward()
    assert isinstance(made, SingleTower | TargetAttention | LR | FM)
    for table in made.pair_fields.tables:
        assert table.grad is not None and table.grad.abs().max() > 0


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[PreRanker, Bundle, Dataset]]:
    """A world published by an untrained model."""
    made: dict[Any, tuple[PreRanker, Bundle, Dataset]] = {}

    def load(model: str, source: str) -> tuple[PreRanker, Bundle, Dataset]:
        if (model, source) not in made:
            data, to = dataset(log(source)), tmp_path_factory.mktemp("published")
            encoder = Encoder.fit(data)
            torch.manual_seed(3)
            small = fitting(model, {"embedding": 4, "embedding_std": 0.5, "tower": (8,)})
            settings = model_config({"name": model, **small}, "test")
            bundle = Bundle(create(settings, encoder.inputs).eval(), encoder, settings, {})
            publish_bundle(bundle, data, to)
            made[(model, source)] = (PreRanker.load(to), bundle, data)
        return made[(model, source)]

    return load


@pytest.mark.parametrize("source", ["items", "records"])
@pytest.mark.parametrize("model", [*READERS, "two_tower"])
def test_served_is_evaluated(
    model: str, source: str, published: Callable[[str, str], tuple[PreRanker, Bundle, Dataset]]
) -> None:
    """Requests of the test part with all raw values, and all earlier behaviours, rank as evaluation scores them."""
    ranker, bundle, data = published(model, source)
    rows, timelines = data.parts["test"], data.timelines
    assert rows.pairs is not None
    encoded = EncodedDataset(data, bundle.encoder)
    with torch.inference_mode():
        logits = torch.cat([bundle.model(batch) for batch in Loader(encoded, "test", 100).batches()]).flatten()
    for row in range(0, len(rows), 97):
        user = int(rows.users[row])
        entries = timelines.entries[timelines.offsets[user] : rows.ends[row]].tolist()
        items = [int(rows.items[row, 0]), 3, int(rows.items[row, 0])]
        given = rows.pairs.row(row, named=True)
        answer = ranker.rank(
            {"user": user},
            items,
            history=data.items["item"][entries].to_list()
            if source == "items"
            else data.behaviours.select("item", "genres")[entries].to_dicts(),
            pairs={"price_gap": [given["price_gap"], 0.0, 99.0], "badge": [given["badge"], None, "?"]},
        )
        scores = dict(zip(answer.ids, answer.scores, strict=True))
        assert scores[items[0]] == pytest.approx(float(logits[row]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("source", ["items", "records"])
@pytest.mark.parametrize("model", READERS)
def test_many_requests_are_answered_as_one_by_one(
    model: str,
    source: str,
    published: Callable[[str, str], tuple[PreRanker, Bundle, Dataset]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Small requests of different sizes that are scored together, one that is scored alone, one without candidates."""
    monkeypatch.setattr("prerank.publish.many.ALONE", 30)
    ranker, _, data = published(model, source)
    rng = np.random.default_rng(4)
    requests = []
    for count in (2, 7, 0, 33, 5, 7):
        past = rng.integers(ITEMS, size=rng.integers(0, 6)).tolist()
        requests.append(
            Request(
                user={"user": int(rng.integers(USERS))},
                candidates=[*rng.permutation(ITEMS)[:count].tolist(), "unknown"],
                history=past if source == "items" else data.items[past].to_dicts(),
                pairs={"price_gap": rng.normal(0, 10, count + 1).tolist(), "badge": ["new"] * count + [None]},
            )
        )
    for request, answer in zip(requests, ranker.rank_many(requests), strict=True):
        one = ranker.rank(request.user, request.candidates, history=request.history, pairs=request.pairs)
        assert dict(zip(answer.ids, answer.scores, strict=True)) == pytest.approx(
            dict(zip(one.ids, one.scores, strict=True)), rel=1e-4, abs=1e-5
        )
        assert len(answer.ids) == len(request.candidates) - 1


def test_pair_features_come_through_the_service(
    published: Callable[[str, str], tuple[PreRanker, Bundle, Dataset]],
) -> None:
    """As the native request and as tensors, which is all that the protocols do with a request before it is ranked."""
    ranker, _, _ = published("wide_deep", "items")
    body = {
        "candidates": [4, 5, 6],
        "user": {"user": 3},
        "pairs": {"price_gap": [20.5, -9, None], "badge": ["hot"] * 3},
    }
    native = msgspec.json.decode(msgspec.json.encode(body), type=RankRequest).asked()
    texts = [Tensor("candidates", "BYTES", ["4", "5", "6"]), Tensor("pairs.badge", "BYTES", ["hot"] * 3)]
    numbers = [
        Tensor("user.user", "INT64", np.array([3])),
        Tensor("pairs.price_gap", "FP64", np.array([20.5, -9, np.nan])),
    ]
    tensors = {each.name: each for each in (*texts, *numbers)}
    open_form = to_request(tensors, RankParameters(), ranker.generation)
    direct = ranker.rank({"user": 3}, [4, 5, 6], pairs=body["pairs"])  # type: ignore[arg-type]
    for request in (native, open_form):
        assert ranker.rank_many([request])[0].scores == pytest.approx(direct.scores, abs=1e-5)
    inputs = {each.name: (each.datatype, each.shape) for each in describe(ranker.generation)[0]}
    assert inputs["pairs.price_gap"] == ("FP64", [-1]) and inputs["pairs.badge"] == ("BYTES", [-1])


def test_the_match_columns_know_unknown_items(
    published: Callable[[str, str], tuple[PreRanker, Bundle, Dataset]],
) -> None:
    ranker, _, data = published("lr", "items")
    match = ranker.generation.store.matches
    assert match is not None and published("two_tower", "items")[0].generation.store.matches is None
    expected = EncodedDataset(data, ranker.generation.bundle.encoder).items
    positions, known = ranker.generation.store.lookup([5, "nothing", 7], "ids")
    taken = ranker.generation.store.matched(positions, known)
    assert taken.columns["item"].tolist() == [  # type: ignore[union-attr]
        expected.columns["item"][5],  # type: ignore[index]
        0,
        expected.columns["item"][7],  # type: ignore[index]
    ]
    assert taken.columns["genres"].lengths.tolist()[1] == 0  # type: ignore[union-attr]
    history: list[Any] = [5, "nothing", 5]
    once = ranker.rank({"user": 1}, [5], history=history).scores
    assert ranker.rank({"user": 1}, [5], history=[*history[1:]]).scores != once
    assert ranker.rank({"user": 1}, [], history=history).ids == []


@pytest.mark.parametrize("as_table", [False, True])
@pytest.mark.parametrize("source", ["items", "records"])
def test_upserted_items_are_counted_as_if_published_with_them(source: str, as_table: bool, tmp_path: Path) -> None:
    """New, changed and bare items, as candidates and in histories, also in another generation after compaction."""
    data = dataset(log(source))
    encoder = Encoder.fit(data)
    torch.manual_seed(3)
    settings = model_config({"name": "wide_deep", "embedding": 4, "embedding_std": 0.5, "tower": [8]}, "test")
    bundle = Bundle(create(settings, encoder.inputs).eval(), encoder, settings, {})
    changed = {5: ["sport"], 7: ["art", "war", "art"], 100: ["war"], 101: [], 102: ["war", "never seen", "sport"]}
    genres = {**dict(data.items.select("item", "genres").rows()), **changed}
    items = pl.DataFrame({"item": list(genres), "genres": list(genres.values())})
    whole = replace(data, items=items, behaviours=items if source == "items" else data.behaviours)
    publish_bundle(bundle, data, tmp_path / "upserted")
    publish_bundle(bundle, whole, tmp_path / "anew")
    opened = PreRanker.load(tmp_path / "upserted")
    news = items.filter(pl.col("item").is_in(list(changed)))
    updates = ItemUpdates.open(tmp_path / "upserted")
    updates.upsert([{"item": 100, "genres": ["art", "sport"]}])  # replaced at once
    updates.upsert(news if as_table else news.to_dicts())
    updates.delete([9])

    def scores(ranker: PreRanker, past: list[int]) -> dict[Any, float]:
        history: list[Any] = past
        if source == "records":
            history = [{"item": item, "genres": genres.get(item)} for item in past]
        answer = ranker.rank({"user": 3}, [1, 5, 6, 7, 100, 101, 102], history=history)
        return dict(zip(answer.ids, answer.scores, strict=True))

    compact(tmp_path / "upserted")
    anew, compacted = PreRanker.load(tmp_path / "anew"), PreRanker.load(tmp_path / "upserted")
    assert compacted.generation.name != opened.generation.name and not compacted.generation.store.lookup([9])[1].any()
    with_war = scores(anew, [100, 7, 102])
    for past in ([100, 7, 102], [5, 999, 101], [1, 100, 100], []):
        expected = scores(anew, past)
        assert len(set(expected.values())) > 4
        assert scores(opened, past) == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert scores(compacted, past) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert with_war[100] != pytest.approx(scores(anew, [5, 5, 5])[100], abs=1e-3)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"price_gap": [1.0]}, "pairs.price_gap: expected one value for each of 2 candidates, got 1"),
        ({"gap": [1, 2]}, "pairs.gap: unknown field; fields: badge, price_gap"),
        ({"seen": [1, 2]}, "pairs.seen: is counted from the history, it is not given"),
        ({"price_gap": ["a", 2]}, "pair.price_gap: expected a number, got 'a'"),
        ({"price_gap": 3}, "pairs.price_gap: expected a list, got int"),
        ([1, 2], "pairs: expected a mapping of names to values, got list"),
    ],
)
def test_wrong_pairs_of_a_request(
    pairs: Any, message: str, published: Callable[[str, str], tuple[PreRanker, Bundle, Dataset]]
) -> None:
    for model in ("wide_deep", "two_tower"):
        with pytest.raises(RequestError) as caught:
            published(model, "items")[0].rank({"user": 1}, [1, 2], pairs=pairs)
        assert message in str(caught.value)


class Listening(Quiet):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def test_from_fit_to_rank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that does not read pair features says so; one that does ranks by them on the command line."""
    dataset(log("items")).save(tmp_path / "data")
    for model in ("two_tower", "wide_deep"):
        listener = Listening()
        run_experiment(config(model, tmp_path, max_epochs=2), tmp_path / model, listener)
        said = [text for text in listener.said if text.startswith("pair features are not read: price_gap, badge")]
        assert len(said) == (model == "two_tower")
    (tmp_path / "ids.txt").write_text("1\n2\n3\n")
    app(["publish", str(tmp_path / "wide_deep"), "--to", str(tmp_path / "out")], standalone_mode=False)
    pairs = json.dumps({"price_gap": [-30, 30, 0]})
    options = ["--candidates", str(tmp_path / "ids.txt"), "--pairs", pairs, "--json", str(tmp_path / "answer.json")]
    app(["rank", str(tmp_path / "out"), "--user", '{"user": 1}', *options], standalone_mode=False)
    assert json.loads((tmp_path / "answer.json").read_text())["ids"] == ["2", "3", "1"]
    capsys.readouterr()
