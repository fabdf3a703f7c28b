"""A world in which the last behaviour tells everything and the others nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from prerank.batch import Batch, Features, Ragged
from prerank.evaluation.metrics import auc
from prerank.models.registry import create, model_config
from prerank.schema import Inputs

GROUPS, LENGTH, REQUESTS = 4, 8, 128
INPUTS = Inputs(
    user={"user": 2},
    item={"group": GROUPS + 1},
    history=("group",),
    user_id="user",
    item_id="group",
    history_length=LENGTH,
)
SMALL: dict[str, Any] = {"embedding": 4, "embedding_std": 0.3, "tower": (16, 8)}
FIT: dict[str, Any] = {**SMALL, "name": "fit", "meta_queries": 6, "attention": (8, 4), "head_width": 4}


def world(seed: int) -> Batch:
    """Histories of random groups; the positive is of the last one's group, the negative of another."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(0, GROUPS, (REQUESTS, LENGTH), generator=generator)
    last = steps[:, -1]
    other = (last + torch.randint(1, GROUPS, (REQUESTS,), generator=generator)) % GROUPS
    return Batch(
        user=Features({"user": torch.ones(REQUESTS, dtype=torch.int64)}, REQUESTS),
        behaviours=Features({"group": torch.arange(1, GROUPS + 1)}, GROUPS),
        history=Ragged(steps.flatten(), torch.arange(REQUESTS + 1) * LENGTH),
        items=Features({"group": torch.stack([last, other], 1).flatten() + 1}, 2 * REQUESTS),
        labels=torch.tensor([[1.0, 0.0]]).repeat(REQUESTS, 1),
    )


@pytest.mark.parametrize(
    ("blind", "change"),
    [
        (FIT, {"positions": True}),
        ({**FIT, "meta_queries": 0}, {"positions": True}),
        ({**SMALL, "name": "din", "attention": (8, 4)}, {"positions": True}),
        ({**SMALL, "name": "two_tower"}, {"history": "recency"}),
    ],
    ids=["fit", "fit w/o MQM", "din", "two_tower"],
)
def test_positions_learn_what_order_tells(blind: dict[str, Any], change: dict[str, Any]) -> None:
    """Who does not see the order cannot do better than count how often the candidate's group occurs."""
    test, scores = world(10_000), {}
    counts = F.one_hot(test.history.values.view(REQUESTS, LENGTH), GROUPS).sum(1)
    groups = test.items.columns["group"]
    assert isinstance(groups, torch.Tensor)
    best = counts.gather(1, groups.view(REQUESTS, 2) - 1)
    bound = auc(test.labels.numpy().ravel(), best.double().numpy().ravel())
    for name, config in (("blind", blind), ("positions", {**blind, **change})):
        torch.manual_seed(1)
        model = create(model_config(config, "test"), INPUTS).train()
        optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
        for step in range(150):
            batch = world(step)
            logits, _ = model.relaxed(batch, step / 100)
            optimiser.zero_grad()
            F.binary_cross_entropy_with_logits(logits, batch.labels).backward()
            optimiser.step()
        with torch.no_grad():
            scores[name] = auc(test.labels.numpy().ravel(), model.eval()(test).double().numpy().ravel())
    assert scores["blind"] < bound + 0.03
    assert scores["positions"] > 0.95 > bound + 0.2
