"""What an item takes in the store, at the sizes of the papers' comparison."""

from __future__ import annotations

import pytest
import torch

from prerank.batch import Features
from prerank.models.registry import create, model_config
from prerank.schema import Inputs

INPUTS = Inputs(
    user={"user_id": 9},
    item={"item_id": 9, "category": 9},
    history=("item_id", "category"),
    user_id="user_id",
    item_id="item_id",
    history_length=50,
)
FACTORS = {"two_tower": 1, "fit": 1, "dat": 0.25, "int_tower": 8, "rank_tower": 1, "hit": 0.25}


@pytest.mark.parametrize("name", FACTORS)
def test_floats_per_item_are_those_of_the_papers(name: str) -> None:
    """In units of Two-Tower's 128 floats; FIT's query index comes on top (FIT table 2)."""
    model = create(model_config({"name": name}, "test"), INPUTS).eval()
    ids = torch.tensor([1, 2])
    item = model.item(Features({"item_id": ids, "category": ids}, 2))
    assert item.shape[1] - model.index_columns == 128 * FACTORS[name]
