"""The whole way on coin flips: whatever a model finds in random behaviour came in through a leak.

Each recipe is what a source does with its data. The test parts have 20,000 rows of both classes in equal shares, so
the standard error of an AUC of one half is 0.004 and the bound of 0.02 is five of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tests.small import small_values

from prerank.data.build import build
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset
from prerank.data.log import Dataset, RawLog
from prerank.data.protocol import preset
from prerank.evaluation.evaluate import evaluate, popularity
from prerank.models.registry import MODELS
from prerank.schema import Field, Schema
from prerank.training.config import RunConfig
from prerank.training.trainer import train

ITEMS = 500
# What each model has of these. All are tried on one recipe; a recipe's own leaks are in the data, which all models read
# alike, so they are sought by one model of the plainest kind and one of the most curious.
SMALL: dict[str, Any] = {
    "embedding": 4,
    "embedding_std": 0.1,
    "tower": (16, 8),
    "attention": (8, 4),
    "meta_queries": 4,
    "heads": 2,
    "head_width": 8,
    "layers": 1,
    "cross_layers": 1,
}
SEEKERS = ("two_tower", "fit")
SCHEMA = Schema(
    user_id="user_id",
    item_id="item_id",
    user=(Field(name="user_id"), Field(name="city")),
    item=(Field(name="item_id"), Field(name="category")),
    history=("item_id", "category"),
)


def log(users: int, each: int, seed: int = 0) -> RawLog:
    """Every user meets different items in a random order; ratings and labels are coin flips."""
    rng = np.random.default_rng(seed)
    met = rng.random((users, ITEMS), dtype=np.float32).argpartition(each, axis=1)[:, :each]
    count = users * each
    events = pl.DataFrame(
        {
            "user": np.repeat(np.arange(users), each),
            "item": rng.permuted(met, axis=1).ravel(),
            "time": rng.permuted(np.tile(np.arange(each) * 3600, (users, 1)), axis=1).ravel(),
            "rating": rng.choice([1.0, 2.0, 4.0, 5.0], count),
            "label": rng.integers(2, size=count, dtype=np.int8),
        }
    )
    return RawLog(
        "coin flips",
        SCHEMA,
        pl.DataFrame({"user_id": np.arange(users), "city": rng.integers(9, size=users)}),
        pl.DataFrame({"item_id": np.arange(ITEMS), "category": rng.integers(9, size=ITEMS)}),
        events[rng.permutation(count)],
    )


def with_threes(raw: RawLog) -> RawLog:
    dropped = raw.events.with_columns(time=pl.col("time") + 1, rating=pl.lit(3.0))
    return replace(raw, events=pl.concat([raw.events, dropped[::5]]))


def with_clicks_as_history(raw: RawLog) -> RawLog:
    return replace(raw, events=raw.events.with_columns(behaviour=pl.col("label") == 1))


def with_records(raw: RawLog) -> RawLog:
    """Page views of categories at the very times of the impressions, which must not see them."""
    views = raw.events.join(raw.items, left_on="item", right_on="item_id").filter(pl.col("label") == 1)
    schema = raw.schema.model_copy(update={"history": ("category",), "history_of": "records"})
    return replace(raw, schema=schema, records=views.select("user", "time", "category"))


def with_pairs(raw: RawLog) -> RawLog:
    """Counts of the history, which ends before the event, and a number that says nothing."""
    pair = [{"name": "same", "match": "category"}, {"name": "noise", "kind": "numeric", "numeric": "autodis"}]
    schema = Schema.model_validate({**raw.schema.model_dump(), "pair": pair})
    noise = np.random.default_rng(1).normal(size=raw.events.height)
    return replace(raw, schema=schema, events=raw.events.with_columns(noise=noise))


LAST_DAY = [f"test_size={10 * 3600}"]
RECIPES: dict[str, Callable[[], Dataset]] = {
    "din": lambda: build(log(2000, 12), preset("din", ["test_size=5"])),
    "din, histories of one": lambda: build(log(2000, 12), preset("din", ["test_size=5", "history=1"])),
    "fit": lambda: build(with_threes(log(2000, 12)), preset("fit", ["test_size=5"])),
    "dien": lambda: build(log(20_000, 3), preset("dien", ["test_size=0.5"])),
    "inttower": lambda: build(with_threes(log(3000, 14)), preset("inttower", ["test_size=0.5"])),
    "impressions": lambda: build(log(2000, 20), preset("impressions", LAST_DAY)),
    "taobao, ad clicks": lambda: build(with_clicks_as_history(log(2000, 20)), preset("taobao", LAST_DAY)),
    "taobao, records": lambda: build(with_records(log(2000, 20)), preset("taobao", LAST_DAY)),
}


class Silence:
    """Hears of progress and says nothing."""

    def message(self, text: str) -> None: ...

    def step(self, epoch: int, step: int, steps: int, loss: float, rows_per_second: float) -> None: ...

    def epoch(self, record: dict[str, Any]) -> None: ...


def auc_after_training(model: str, dataset: Dataset, out: Path) -> float:
    config = RunConfig.model_validate(
        {
            "data": out,
            "model": small_values(model, **SMALL),
            "training": {"batch_rows": 512, "max_epochs": 3, "learning_rate": 5e-3, "device": "cpu"},
        }
    )
    data = EncodedDataset(dataset, Encoder.fit(dataset))
    trained = train(config, data, out, Silence())
    result = evaluate(trained.model, data, "test", torch.device("cpu"), epochs=trained.epochs, gap=False)
    assert result.metrics["rows"] >= 19_000
    return float(result.metrics["auc"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_is_found_in_coin_flips(recipe: str, tmp_path: Path) -> None:
    dataset = RECIPES[recipe]()
    assert popularity(dataset, "test").metrics["auc"] == pytest.approx(0.5, abs=0.02)
    for model in SEEKERS:
        assert auc_after_training(model, dataset, tmp_path / model) == pytest.approx(0.5, abs=0.02), model


@pytest.mark.parametrize("model", MODELS)
def test_no_model_finds_anything_in_random_labels(model: str, tmp_path: Path) -> None:
    assert auc_after_training(model, RECIPES["impressions"](), tmp_path) == pytest.approx(0.5, abs=0.02)


def test_pair_features_find_nothing_in_coin_flips(tmp_path: Path) -> None:
    dataset = build(with_pairs(with_clicks_as_history(log(2000, 20))), preset("taobao", LAST_DAY))
    assert auc_after_training("wide_deep", dataset, tmp_path) == pytest.approx(0.5, abs=0.02)


def with_label_as_context(raw: RawLog) -> RawLog:
    schema = raw.schema.model_copy(update={"context": (Field(name="page"),)})
    return replace(raw, schema=schema, events=raw.events.with_columns(page=pl.col("label")))


def with_windows_one_too_far(dataset: Dataset) -> Dataset:
    return replace(dataset, parts={name: replace(rows, ends=rows.ends + 1) for name, rows in dataset.parts.items()})


LEAKS: dict[str, Callable[[], Dataset]] = {
    "label as context": lambda: build(with_label_as_context(log(2000, 20)), preset("impressions", LAST_DAY)),
    "target in the history": lambda: with_windows_one_too_far(RECIPES["din, histories of one"]()),
}


@pytest.mark.parametrize(
    ("leak", "model"),
    [*(("label as context", model) for model in MODELS), *(("target in the history", model) for model in SEEKERS)],
)
def test_a_planted_leak_is_found(leak: str, model: str, tmp_path: Path) -> None:
    """The bounds above can be broken, by each model."""
    assert auc_after_training(model, LEAKS[leak](), tmp_path) > 0.6
