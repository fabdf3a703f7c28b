"""Evaluation of a model whose logits are known, and the popularity baseline by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from prerank.batch import Batch, Features, History
from prerank.data.loader import EncodedDataset
from prerank.data.log import PARTS, Dataset
from prerank.evaluation import evaluate as module
from prerank.evaluation.evaluate import evaluate, popularity, summarise
from prerank.evaluation.metrics import auc, gauc, log_loss
from prerank.models.base import Choice, ModelConfig, PreRankingModel

CPU = torch.device("cpu")


class Known(PreRankingModel):
    """The logit is sin(user id * item id), and no length of history or other candidate changes it."""

    def __init__(self, data: EncodedDataset) -> None:
        super().__init__(data.encoder.inputs, ModelConfig(embedding=2))
        self.modes: set[bool] = set()

    def user(self, features: Features, history: History) -> Tensor:
        assert len(history.steps.offsets) == features.rows + 1
        return number(features, "user_id")

    def item(self, features: Features) -> Tensor:
        self.modes.add(self.training)
        return number(features, "item_id")

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        return torch.sin(user * item).squeeze(-1)


class Relaxed(Known):
    """Its training path doubles the logit after one epoch, and it reports what it sees."""

    def relaxed(self, batch: Batch, epochs: float) -> tuple[Tensor, dict[str, Tensor]]:
        return self(batch) * (1 + epochs), {}

    def diagnose(self, batch: Batch, epochs: float) -> dict[str, Tensor | Choice]:
        del epochs
        users = number(batch.user, "user_id").squeeze(-1).long()
        return {"user_id": users.float(), "parity": Choice(users % 2, 4)}


def number(features: Features, name: str) -> Tensor:
    column = features.columns[name]
    assert isinstance(column, Tensor)
    return column.float().unsqueeze(-1)


def by_hand(data: EncodedDataset, part: str) -> Any:
    rows = data.dataset.parts[part]
    users = number(data.users, "user_id")[torch.from_numpy(np.array(rows.users))]
    items = number(data.items, "item_id")[torch.from_numpy(np.array(rows.items))].squeeze(-1)
    return torch.sin(users * items).double().numpy().ravel()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("batch_rows", [6, 4096])
def test_scores_stand_in_stored_order(
    encoded: EncodedDataset, part: str, batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS", batch_rows)
    result = evaluate(Known(encoded), encoded, part, CPU, epochs=1.0)
    rows = encoded.dataset.parts[part]
    assert result.logits.dtype == np.float64
    assert result.logits == pytest.approx(by_hand(encoded, part), abs=1e-6)
    assert result.labels.tolist() == [1, 0] * len(rows)
    assert result.users.tolist() == [user for user in rows.users for _ in range(2)]
    assert result.metrics == summarise(result.users, result.labels, result.logits)


def test_summary_names_what_it_holds(encoded: EncodedDataset) -> None:
    result = evaluate(Known(encoded), encoded, "test", CPU, epochs=1.0)
    assert set(result.metrics) == {"auc", "gauc", "logloss", "calibration", "base_rate", "rows"}
    assert result.metrics["auc"] == auc(result.labels, result.logits)
    assert result.metrics["gauc"] == gauc(result.labels, result.logits, result.users)
    assert result.metrics["logloss"] == log_loss(result.labels, result.logits)
    assert result.metrics["base_rate"] == 0.5
    assert result.metrics["rows"] == 240


def test_what_the_rows_do_not_define_is_none() -> None:
    one_class = np.zeros(3, dtype=np.uint8)
    metrics = summarise(np.arange(3), one_class, np.zeros(3))
    assert (metrics["auc"], metrics["gauc"], metrics["calibration"]) == (None, None, None)
    assert metrics["logloss"] == pytest.approx(np.log(2))
    one_row_each = summarise(np.arange(2), np.array([1, 0], dtype=np.uint8), np.array([1.0, -1.0]))
    assert one_row_each["auc"] == 1.0
    assert one_row_each["gauc"] is None


@pytest.mark.parametrize("training", [True, False])
def test_evaluates_in_eval_mode_and_leaves_the_mode(encoded: EncodedDataset, training: bool) -> None:
    model = Known(encoded).train(training)
    evaluate(model, encoded, "test", CPU, epochs=1.0)
    assert model.modes == {False}
    assert model.training is training


def test_the_gap_is_measured_where_there_is_one(encoded: EncodedDataset) -> None:
    served = evaluate(Known(encoded), encoded, "test", CPU, epochs=2.0)
    result = evaluate(Relaxed(encoded), encoded, "test", CPU, epochs=2.0)
    assert (result.logits == served.logits).all()
    assert result.metrics["relaxed_auc"] == pytest.approx(served.metrics["auc"], abs=1e-6)
    assert result.metrics["auc_gap"] == pytest.approx(0, abs=1e-6)
    assert result.metrics["relaxed_logloss"] == pytest.approx(log_loss(result.labels, 3 * served.logits), abs=1e-6)
    assert not any("relaxed" in name or "gap" in name for name in served.metrics)
    without = evaluate(Relaxed(encoded), encoded, "test", CPU, epochs=2.0, gap=False)
    assert not any("relaxed" in name or "gap" in name for name in without.metrics)


def test_diagnostics_are_averaged_and_choices_counted(encoded: EncodedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS", 14)  # batches of unequal size
    metrics = evaluate(Relaxed(encoded), encoded, "test", CPU, epochs=0.0).metrics
    users = number(encoded.users, "user_id").squeeze(-1)[
        torch.from_numpy(np.array(encoded.dataset.parts["test"].users))
    ]
    assert metrics["user_id"] == pytest.approx(float(users.mean()))
    odd = float((users % 2).mean())
    assert metrics["parity"] == {
        "used": 2,
        "of": 4,
        "perplexity": pytest.approx(np.exp(-(odd * np.log(odd) + (1 - odd) * np.log(1 - odd)))),
    }


def test_popularity_by_hand(world: Dataset) -> None:
    train = world.parts["train"]
    small = replace(
        train,
        users=np.array([0, 0, 1], dtype=np.int32),
        ends=np.zeros(3, dtype=np.int64),
        items=np.array([[0, 1], [0, 2], [1, 2]], dtype=np.int32),
        labels=np.array([[1, 0]] * 3, dtype=np.uint8),
        times=np.zeros(3, dtype=np.int64),
    )
    test = replace(small, items=np.array([[0, 3], [2, 1], [1, 0]], dtype=np.int32))
    parts = {**world.parts, "train": small, "test": test}
    dataset = replace(world, parts=parts, items=pl.DataFrame({"item_id": range(4)}))
    result = popularity(dataset, "test")
    # Positives and negatives plus one: item 0 has 3 and 1, item 1 has 2 and 2, item 2 has 1 and 3, item 3 has 1 and 1.
    odds = {0: 3.0, 1: 1.0, 2: 1 / 3, 3: 1.0}
    assert np.exp(result.logits) == pytest.approx([odds[item] for item in (0, 3, 2, 1, 1, 0)])
    # Positives score 3, 1/3, 1 and negatives 1, 1, 3: three pairs in order, two ties.
    assert result.metrics["auc"] == pytest.approx((2 + 0.5 + 0 + 0.5 * 2) / 9)
    assert result.users.tolist() == [0, 0, 0, 0, 1, 1]
    assert result.metrics["rows"] == 6


def test_popularity_knows_nothing_where_all_items_are_alike(world: Dataset) -> None:
    assert popularity(world, "test").metrics["auc"] == pytest.approx(0.5, abs=0.1)
