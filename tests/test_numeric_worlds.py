"""Worlds in which one number decides: each form of a numeric field finds what it can express, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from prerank.data.build import build
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset, Loader
from prerank.data.log import RawLog
from prerank.data.protocol import Protocol
from prerank.evaluation.evaluate import evaluate
from prerank.evaluation.metrics import auc
from prerank.layers.embedding import FieldEmbeddings
from prerank.schema import Schema
from prerank.training.config import RunConfig
from prerank.training.trainer import Quiet, train

EVENTS = 6_000
LEVELS = 3  # a click's logit is this high or low at the ends


def log(form: str, side: str, shape: str) -> tuple[RawLog, Any]:
    """Impressions whose click depends on one number, of the user or the moment, and the best scores of them all."""
    rng = np.random.default_rng(2)
    number = rng.normal(40, 12, EVENTS)
    x = (number - 40) / 12
    logit = LEVELS * x if shape == "rising" else LEVELS * (1 - 2 * np.abs(x))
    label = (rng.random(EVENTS) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    field = {"name": "number", "kind": "numeric", "numeric": form}
    schema = {
        "user_id": "user",
        "item_id": "item",
        "user": ["shop"],
        "item": ["item"],
        "history": ["item"],
        side: {"user": ["shop", field], "context": [field]}[side],
    }
    one_each = np.arange(EVENTS)
    return RawLog(
        "numbers",
        Schema.model_validate(schema),
        pl.DataFrame({"user": one_each, "shop": "a", "number": number}),
        pl.DataFrame({"item": np.arange(5)}),
        pl.DataFrame({"user": one_each, "item": one_each % 5, "time": one_each * 10, "label": label, "number": number}),
    ), logit


def data_of(raw: RawLog) -> EncodedDataset:
    dataset = build(raw, Protocol(labels="given", test="time", test_size=EVENTS * 2))
    return EncodedDataset(dataset, Encoder.fit(dataset))


def linear_auc(data: EncodedDataset) -> float:
    """The test AUC of a logistic regression, which is embeddings of width 1 and a bias."""
    torch.manual_seed(0)
    weights, bias = FieldEmbeddings(data.encoder.inputs.user, 1, std=0.01), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([*weights.parameters(), bias], lr=0.05)
    (batch,) = Loader(data, "train", 10**6).batches()
    for _ in range(250):
        optimiser.zero_grad()
        logits = weights(batch.user).sum(1) + bias
        torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels[:, 0]).backward()
        optimiser.step()
    (batch,) = Loader(data, "test", 10**6).batches()
    scores = weights(batch.user).sum(1).detach().double().numpy()
    return auc(batch.labels[:, 0].numpy().astype(np.uint8), scores)


@pytest.mark.parametrize("side", ["user", "context"])
@pytest.mark.parametrize("form", ["buckets", "scale", "autodis"])
@pytest.mark.parametrize("shape", ["rising", "bump"])
def test_a_linear_model_finds_what_the_form_can_express(shape: str, form: str, side: str) -> None:
    raw, best = log(form, side, shape)
    data = data_of(raw)
    found, reachable = linear_auc(data), auc(*true_scores(data, best))
    assert 0.9 < reachable < 0.95
    if (shape, form) == ("bump", "scale"):  # a multiple of one weight rises or falls
        assert found == pytest.approx(0.5, abs=0.05)
    else:
        assert found == pytest.approx(reachable, abs=0.01)


@pytest.mark.parametrize("form", ["buckets", "scale", "autodis"])
def test_a_number_is_found_on_the_whole_way(form: str, tmp_path: Path) -> None:
    raw, best = log(form, "context", "bump")
    data = data_of(raw)
    config = RunConfig.model_validate(
        {
            "data": tmp_path,
            "model": {"name": "wide_deep", "embedding": 4, "embedding_std": 0.1, "tower": (8,)},
            "training": {"batch_rows": 256, "max_epochs": 4, "learning_rate": 0.01, "device": "cpu"},
        }
    )
    run = train(config, data, tmp_path, Quiet())
    result = evaluate(run.model, data, "test", torch.device("cpu"), epochs=run.epochs)
    assert result.metrics["auc"] == pytest.approx(auc(*true_scores(data, best)), abs=0.015)


def true_scores(data: EncodedDataset, best: Any) -> tuple[Any, Any]:
    rows = data.dataset.parts["test"]
    return np.asarray(rows.labels)[:, 0], best[rows.users]
