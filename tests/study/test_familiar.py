"""Familiar negatives, found by a scorer that knows its training negatives by heart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prerank.data.build import build
from prerank.data.candidates import Candidates
from prerank.data.log import Dataset
from prerank.data.protocol import preset
from prerank.data.sources.synthetic import checkerboard
from prerank.evaluation.evaluate import Evaluation
from prerank.study.familiar import familiar_negatives
from prerank.training.config import RunConfig


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return build(checkerboard(users=60, items=40, events_per_user=6), preset("din"))


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [({}, 3), ({"negatives": 4}, 3), ({"fresh_negatives": True}, 1), ({"fresh_negatives": True, "negatives": 2}, 3)],
)
def test_a_scorer_that_knows_them_by_heart_is_found_out(dataset: Dataset, settings: Any, epochs: int) -> None:
    """It puts what it met below everything, and cannot tell the rest apart."""
    config = RunConfig(data=Path("unread"), model={"name": "lr"}, training=settings, seed=5)
    shown = Candidates(dataset, "train", 5, settings.get("fresh_negatives", False), settings.get("negatives"))
    met = {
        (int(user), int(item))
        for epoch in range(epochs if "fresh_negatives" in settings else 1)
        for user, items in zip(shown.rows.users, shown.of(epoch), strict=True)
        for item in items[1:]
    }
    rows = dataset.parts["test"]
    pairs = [(int(user), int(item)) for user, items in zip(rows.users, rows.items, strict=True) for item in items]
    users, labels = np.repeat(rows.users.astype(np.int64), 2), np.asarray(rows.labels).ravel()
    heart = np.array([-1.0 if pair in met else 0.0 for pair in pairs])
    found = familiar_negatives(dataset, config, epochs, Evaluation(users, labels, heart, {}))
    assert not any(pair in met for pair, label in zip(pairs, labels, strict=True) if label)
    assert found["share"] == pytest.approx(np.mean(heart[labels == 0] < 0))
    assert 0 < found["share"] < 1
    assert found["auc_familiar"] == 1.0
    assert found["auc_unfamiliar"] == 0.5
