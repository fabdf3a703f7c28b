"""Requests that cannot be answered give one line that names the field."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prerank.data.loader import EncodedDataset
from prerank.errors import RequestError
from prerank.models.registry import create, model_config
from prerank.publish.bundle import Bundle
from prerank.publish.publish import publish_bundle
from prerank.serving.preranker import PreRanker


@pytest.fixture(scope="module")
def ranker(encoded: EncodedDataset, tmp_path_factory: pytest.TempPathFactory) -> PreRanker:
    config = model_config({"name": "two_tower", "embedding_std": 1.0, "tower": [8]}, "test")
    torch.manual_seed(0)
    to = tmp_path_factory.mktemp("published")
    publish_bundle(Bundle(create(config, encoded.encoder.inputs), encoded.encoder, config, {}), encoded.dataset, to)
    return PreRanker.load(to)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": [1]}, "user: expected a mapping of names to values, got list"),
        ({"user": {"height": 180}}, r"user\.height: unknown field; fields: city, user_id"),
        ({"user": {"city": ["a"]}}, r"user\.city: expected a text or a number, got list"),
        ({"candidates": "item-0001"}, "candidates: expected a list, got str"),
        ({"candidates": 100}, "candidates: expected a list, got int"),
        ({"candidates": ["item-0001", 107.0]}, r"candidates\[1\]: an item id is an integer or a text, got 107\.0"),
        ({"k": 0}, "k: expected a whole number of at least 1, got 0"),
        ({"k": -3}, "k: .* got -3"),
        ({"k": 2.0}, r"k: .* got 2\.0"),
        ({"k": True}, "k: .* got True"),
        ({"unknown": "ignore"}, "unknown: expected 'drop' or 'error', got 'ignore'"),
        ({"history": "item-0001"}, "history: expected a list, got str"),
        ({"history": [None]}, r"history\[0\]: an item id is an integer or a text, got None"),
        ({"context": []}, "context: expected a mapping"),
        ({"context": {"minute": 3}}, r"context\.minute: unknown field"),
        ({"columns": [1.0, 2.0]}, "columns: expected a mapping"),
        ({"columns": {"bid": [1.0]}}, r"columns\.bid: expected one number for each of 2 candidates"),
        ({"columns": {"bid": 1.0}}, r"columns\.bid: expected one number for each of 2 candidates"),
        ({"columns": {"bid": [[1.0], [2.0]]}}, r"columns\.bid: expected one number for each of 2 candidates"),
        ({"columns": {"bid": [1.0, float("nan")]}}, r"columns\.bid\[1\]: nan is not a finite number"),
        ({"columns": {"bid": [float("inf"), 1.0]}}, r"columns\.bid\[0\]: inf is not a finite number"),
        ({"columns": {"bid": ["1", "2"]}}, r"columns\.bid: expected a list of numbers"),
        ({"columns": {"bid": [None, 1.0]}}, r"columns\.bid: expected a list of numbers"),
        ({"columns": {"bid": [[1.0], 2.0]}}, r"columns\.bid: expected a list of numbers"),
        ({"columns": {"score": [1.0, 2.0]}}, r"columns\.score: the model gives this column"),
        ({"ranking": "ecpm"}, "ranking 'ecpm': unknown column 'bid'"),
        ({"ranking": "log(probability - 2)"}, r"ranking 'log\(probability - 2\)': gives nan for candidate 'item-0001'"),
        ({"ranking": "1 / (score - score)"}, r"ranking .*: gives inf for candidate 'item-0001'"),
    ],
)
def test_requests_that_cannot_be_answered(ranker: PreRanker, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}") as caught:
        ranker.rank(**{"user": {"user_id": 3}, "candidates": ["item-0001", "item-0002"], **change})
    assert "\n" not in str(caught.value)
