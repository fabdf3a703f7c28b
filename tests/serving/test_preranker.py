"""Requests of raw values, answered from what was published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.small import small_config

from prerank.data.build import build
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset, Loader
from prerank.data.log import Dataset, RawLog
from prerank.data.protocol import Protocol
from prerank.errors import ArtefactError, RequestError
from prerank.models.registry import MODELS, create
from prerank.publish.bundle import Bundle
from prerank.publish.publish import publish_bundle
from prerank.schema import Schema
from prerank.serving.preranker import PreRanker

USERS, ITEMS, EVENTS, HISTORY = 30, 40, 600, 7
USER = {"user": 4, "age": 33, "sex": "f"}


def films(history_of: str) -> RawLog:
    """Every kind of field; films have integer ids, histories are of films or of (film, genres) records."""
    rng = np.random.default_rng(5)
    ids = 100 + 7 * rng.permutation(ITEMS)
    genres = [list(rng.choice(["drama", "comedy", "war"], size=rng.integers(3), replace=False)) for _ in ids]
    items = pl.DataFrame(
        {
            "film": ids,
            "genres": genres,
            "year": [None, *rng.normal(1990, 9, ITEMS - 1)],
            "length": rng.normal(100, 9, ITEMS),
            "name": [f"film {n}" for n in ids],
        },
        schema_overrides={"genres": pl.List(pl.String)},
    )
    events = {
        "user": rng.integers(USERS, size=EVENTS),
        "item": rng.choice(ids, EVENTS),
        "time": np.arange(EVENTS),
        "label": rng.integers(2, size=EVENTS),
        "hour": rng.integers(24, size=EVENTS),
    }
    users = pl.DataFrame({"user": np.arange(USERS), "age": rng.integers(18, 80, USERS), "sex": ["f", "m", None] * 10})
    schema = Schema.model_validate(
        {
            "user_id": "user",
            "item_id": "film",
            "user": ["user", {"name": "age", "kind": "numeric", "numeric": "scale"}, "sex"],
            "item": [
                "film",
                {"name": "genres", "kind": "multi"},
                {"name": "year", "kind": "numeric", "numeric": "autodis", "buckets": 4},
                {"name": "length", "kind": "numeric", "buckets": 4},
            ],
            "context": ["hour"],
            "history": ["film", "genres", "year"],
            "history_of": history_of,
            "title": "name",
        }
    )
    table = pl.DataFrame(events)
    seen = table.select("user", "time", film="item").join(items.select("film", "genres", "year"), on="film")
    return RawLog("films", schema, users, items, table, seen if history_of == "records" else None)


def untrained(model: str, encoder: Encoder) -> Bundle:
    """A model whose weights, biases and BatchNorm statistics are all random, so that every part of it matters."""
    torch.manual_seed(3)
    config = small_config(model, embedding=4, embedding_std=0.3, tower=[16, 8])
    module = create(config, encoder.inputs)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if "running_var" in name:
                tensor.uniform_(0.5, 2)
            elif "running_mean" in name or name.endswith(("bias", "alpha")):
                tensor.normal_()
    return Bundle(module.eval(), encoder, config, {})


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tiny layers gain nothing from several threads and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def datasets(world: Dataset) -> dict[str, Dataset]:
    protocol = Protocol(labels="given", test_size=3, history=HISTORY)
    return {"films": build(films("items"), protocol), "records": build(films("records"), protocol), "texts": world}


@pytest.fixture(scope="module")
def published(
    datasets: dict[str, Dataset], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[PreRanker, Bundle]]:
    """A world published by a model in a precision, and the model itself."""
    made: dict[Any, tuple[PreRanker, Bundle]] = {}

    def load(source: str, model: str = "fit", dtype: Any = "float32") -> tuple[PreRanker, Bundle]:
        key = (source, model, dtype)
        if key not in made:
            bundle, to = untrained(model, Encoder.fit(datasets[source])), tmp_path_factory.mktemp("published")
            publish_bundle(bundle, datasets[source], to, dtype)
            made[key] = (PreRanker.load(to), bundle)
        return made[key]

    return load


@pytest.fixture(scope="module")
def ranker(published: Callable[..., tuple[PreRanker, Bundle]]) -> PreRanker:
    return published("films")[0]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("source", ["films", "records", "texts"])
@pytest.mark.parametrize("model", MODELS)
def test_served_is_evaluated(
    published: Callable[..., tuple[PreRanker, Bundle]],
    datasets: dict[str, Dataset],
    model: str,
    source: str,
    dtype: str,
) -> None:
    """Each request of the test part, told by hand as raw values, ranks as ``forward`` scores its batch."""
    ranker, bundle = published(source, model, dtype)
    data = datasets[source]
    schema, test = data.schema, data.parts["test"]
    with torch.inference_mode():
        loader = Loader(EncodedDataset(data, bundle.encoder), "test", batch_rows=64)
        expected = torch.cat([bundle.model(batch) for batch in loader.batches()]).numpy()
    for row in range(0, len(test), 5):
        start = data.timelines.offsets[test.users[row]]
        seen = data.timelines.entries[start : test.ends[row]].tolist()  # all of it: the ranker takes the last ones
        ids = data.items[schema.item_id][test.items[row].tolist()].to_list()
        answer = ranker.rank(
            {field.name: data.users[field.name][int(test.users[row])] for field in schema.user},
            ids,
            history=data.behaviours.select(schema.history)[seen].to_dicts()
            if source == "records"
            else data.items[schema.item_id][seen].to_list(),
            context={} if test.context is None else test.context.row(row, named=True),
        )
        by_id = dict(zip(answer.ids, answer.scores, strict=True))
        tolerance = 1e-5 if dtype == "float32" else 2e-3
        np.testing.assert_allclose([by_id[i] for i in ids], expected[row], rtol=tolerance, atol=tolerance)
        assert answer.unknown == [] and answer.unknown_history == 0


def test_best_first_and_k(ranker: PreRanker) -> None:
    ids = [100 + 7 * n for n in range(ITEMS)]
    everything = ranker.rank(USER, ids, history=[107, 114])
    assert sorted(everything.ids) == ids and everything.generation == ranker.generation.name
    assert (np.diff(everything.scores) <= 0).all() and everything.values.tolist() == everything.scores.tolist()
    for k in (1, 7, ITEMS, ITEMS + 1, 10**9):
        assert ranker.rank(USER, ids, k, history=[107, 114]).ids == everything.ids[:k]


def test_rankings_by_hand(ranker: PreRanker) -> None:
    ids, bid = [100, 107, 114, 121, 128], [1.0, 0.1, 5.0, 2.0, 0.5]
    plain = ranker.rank(USER, ids)
    scores = dict(zip(plain.ids, plain.scores, strict=True))
    probability = np.array([1 / (1 + np.exp(-scores[i])) for i in ids])
    for ranking, values in {
        "probability": probability,
        "ecpm": probability * bid,
        "-bid": -np.array(bid),
        "bid * (probability > 0.5) - score": bid * (probability > 0.5) - np.array([scores[i] for i in ids]),
    }.items():
        answer = ranker.rank(USER, ids, 3, ranking, columns={"bid": bid})
        order = np.argsort(-values, kind="stable")[:3]
        assert answer.ids == [ids[place] for place in order]
        np.testing.assert_allclose(answer.values, values[order], rtol=1e-12)
        np.testing.assert_allclose(answer.scores, [scores[i] for i in answer.ids], rtol=1e-5)


def test_columns_stay_with_their_candidates(ranker: PreRanker) -> None:
    """Dropped and repeated candidates take their numbers with them; the first of a repeated one counts."""
    answer = ranker.rank(
        USER, [114, 3, 100, "114", 107, 100], ranking="bid", columns={"bid": np.array([2, 9, 1, 8, 3, 7])}
    )
    assert answer.ids == [107, 114, 100] and answer.values.tolist() == [3, 2, 1]
    assert answer.unknown == [3] and answer.duplicates == 2


def test_ties_keep_the_order_of_the_candidates(ranker: PreRanker) -> None:
    ids = [128, 100, 121, 107, 114]
    assert ranker.rank(USER, ids, ranking="score * 0").ids == ids
    assert ranker.rank(USER, ids, ranking="bid", columns={"bid": [1, 2, 1, 2, 1]}).ids == [100, 107, 128, 121, 114]


@pytest.mark.parametrize("k", [1, 2, 5, 24, 25, 100, 200])
def test_the_best_of_many_are_the_first_of_all_in_order(ranker: PreRanker, k: int) -> None:
    """Values with ties at every k, of more candidates than four times most of them."""
    rng = np.random.default_rng(k)
    ids = (100 + 7 * rng.permutation(ITEMS)).tolist()
    for values in (rng.integers(3, size=ITEMS), rng.integers(ITEMS, size=ITEMS), np.zeros(ITEMS)):
        answer = ranker.rank(USER, ids, k, "bid", columns={"bid": values.astype(np.float64)})
        order = sorted(range(ITEMS), key=lambda place: (-values[place], place))
        assert answer.ids == [ids[place] for place in order[:k]]


def test_no_candidates(ranker: PreRanker) -> None:
    nothing: list[Any] = [[], np.array([], dtype=np.int64), [5, "x", "x"]]
    for candidates in nothing:
        answer = ranker.rank(USER, candidates, 10, "ecpm", columns={"bid": [1.0] * len(candidates)})
        assert answer.ids == [] and answer.values.shape == answer.scores.shape == (0,)
        assert answer.unknown == list(candidates) and answer.duplicates == 0


def test_unknown_candidates_can_be_an_error(ranker: PreRanker) -> None:
    with pytest.raises(RequestError, match="candidates: 2 not in the catalogue, the first is 'x'"):
        ranker.rank(USER, [100, "x", 5], unknown="error")
    assert ranker.rank(USER, [100], unknown="error").ids == [100]


def test_ids_come_back_as_they_were_given(ranker: PreRanker) -> None:
    assert set(ranker.rank(USER, ["100", 107, "0114"]).ids) == {"100", 107}
    given_array = ranker.rank(USER, np.array([100, 107])).ids
    assert sorted(given_array) == [100, 107] and all(type(i) is int for i in given_array)


def test_histories(ranker: PreRanker) -> None:
    def scores(history: Any) -> Any:
        answer = ranker.rank(USER, [100, 107, 114], history=history, ranking="score * 0")
        return answer.scores.tolist(), answer.unknown_history

    assert scores([107, 114]) != scores([])
    recent = [107, 114, 121, 128, 135, 142, 149]
    assert len(recent) == HISTORY and scores([100, 5, *recent]) == scores(recent) == (scores(recent)[0], 0)
    assert scores([5, 107]) == scores(["x", "107"]) == (scores([5, 107])[0], 1)
    as_records = [{"film": 107, "genres": None}, {}]
    assert scores(as_records)[1] == 0 and scores([{}])[0] == pytest.approx(scores([-1])[0], rel=1e-5)


def test_an_unknown_past_item_is_still_a_step(published: Callable[..., tuple[PreRanker, Bundle]]) -> None:
    """Its embedding is zero, which a mean over two behaviours shows."""
    ranker, _ = published("films", "two_tower")
    items = [100 + 7 * number for number in range(10)]

    def scores(*history: int) -> list[float]:
        return list(ranker.rank(USER, items, history=history).scores)

    assert any(scores(item) != scores(5, item) for item in items)  # of a small tower, few units may be awake


def test_record_histories_are_mappings(published: Callable[..., tuple[PreRanker, Bundle]]) -> None:
    ranker, _ = published("records")
    with pytest.raises(RequestError, match=r"history: this model remembers records; .* fields film, genres"):
        ranker.rank(USER, [100], history=[107])
    with pytest.raises(RequestError, match="holds both ids and mappings"):
        ranker.rank(USER, [100], history=[{"film": 1}, 107])
    with pytest.raises(RequestError, match=r"history\.colour: unknown field"):
        ranker.rank(USER, [100], history=[{"colour": "red"}])


def test_a_model_without_history_sees_none(world: Dataset, tmp_path: Path) -> None:
    fitted = Encoder.fit(world)
    bundle = untrained("two_tower", Encoder(fitted.schema, 0, fitted.coders))
    publish_bundle(bundle, world, tmp_path)
    ranker = PreRanker.load(str(tmp_path))
    ids = world.items["item_id"].to_list()
    assert ranker.rank({}, ids, history=ids).ids == ranker.rank({}, ids).ids


def test_unknown_users_and_values_are_served(ranker: PreRanker) -> None:
    nobody = ranker.rank({}, [100, 107])
    assert np.isfinite(nobody.scores).all()
    for user in ({"user": 10**6, "age": None, "sex": "?"}, {"sex": None}):
        assert ranker.rank(user, [100, 107]).scores.tolist() == nobody.scores.tolist()
    assert ranker.rank(USER, [100]).scores != ranker.rank(USER, [100], context={"hour": 3}).scores


@given(st.data())
def test_a_score_depends_on_no_other_candidate(ranker: PreRanker, data: st.DataObject) -> None:
    every = [100 + 7 * n for n in range(ITEMS)]
    chosen = data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
    alone = ranker.rank(USER, every, history=[107, 114])
    expected = dict(zip(alone.ids, alone.scores, strict=True))
    among = ranker.rank(USER, chosen, history=[107, 114])
    np.testing.assert_allclose(among.scores, [expected[i] for i in among.ids], rtol=1e-5, atol=1e-5)


def test_four_threads_answer_as_one(ranker: PreRanker) -> None:
    ids = [100 + 7 * n for n in range(ITEMS)]

    def answer(user: int) -> tuple[list[Any], list[float]]:
        ranked = ranker.rank({"user": user % USERS}, ids, 10, history=ids[user % ITEMS : user % ITEMS + 5])
        return ranked.ids, ranked.scores.tolist()

    alone = [answer(user) for user in range(100)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, range(100))) == alone


def test_titles(ranker: PreRanker, published: Callable[..., tuple[PreRanker, Bundle]]) -> None:
    assert ranker.titles([107, "100", 5]) == {107: "film 107", "100": "film 100"}
    assert ranker.titles([]) == {}
    assert published("texts")[0].titles(["item-0003"]) == {}


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="nothing is published here"):
        PreRanker.load(tmp_path)
