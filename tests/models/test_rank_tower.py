"""RankTower, as inferred: gated heads, cross-attention between them, maximum similarity, a listwise loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from prerank.batch import Batch
from prerank.data.loader import EncodedDataset
from prerank.layers.losses import listwise
from prerank.models.rank_tower import RankTower, RankTowerConfig


def made(encoded: EncodedDataset, **changes: Any) -> RankTower:
    torch.manual_seed(0)
    sizes = {"embedding": 4, "embedding_std": 0.5, "tower": (16, 8), "head_width": 5, **changes}
    return RankTower(encoded.encoder.inputs, RankTowerConfig(**sizes)).eval()


@torch.no_grad()
def heads(model: RankTower, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 1, H, P) and (B, C, H, P)."""
    users, items = model.user(batch.user, model.history(batch)), model.item(batch.items)
    return users.view(-1, 1, 2, 5), items.view(*batch.labels.shape, 2, 5)


def max_cosine(users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    cosines = torch.cosine_similarity(users.unsqueeze(-2), items.unsqueeze(-3), dim=-1)
    return 10 * cosines.amax(dim=-1).mean(dim=-1)


def test_with_closed_gates_it_is_the_maximum_cosine_of_the_heads(encoded: EncodedDataset, batch: Batch) -> None:
    model = made(encoded)
    users, items = heads(model, batch)
    for attention in (model.user_attention, model.item_attention):
        nn.init.constant_(attention.gate.bias, -1e4)
    with torch.no_grad():
        torch.testing.assert_close(model(batch), max_cosine(users, items), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["user_attention", "item_attention"])
def test_each_side_attends_to_the_other(encoded: EncodedDataset, batch: Batch, side: str) -> None:
    """With one side's gate open only, the logits are those of that side's heads after attention."""
    model = made(encoded)
    users, items = heads(model, batch)
    other = "item_attention" if side == "user_attention" else "user_attention"
    nn.init.constant_(model.get_parameter(f"{other}.gate.bias"), -1e4)
    with torch.no_grad():
        if side == "user_attention":
            attended = max_cosine(model.user_attention(users, items), items)
        else:
            attended = max_cosine(users, model.item_attention(items, users))
        logits = model(batch)
    torch.testing.assert_close(logits, attended, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits, max_cosine(users, items), atol=1e-3)


def test_heads_are_gated(encoded: EncodedDataset, batch: Batch) -> None:
    model = made(encoded)
    with torch.no_grad():
        h = model.item_tower(model.item_fields(batch.items))
        w, b, v, c = model.item_heads.parameters()
        torch.testing.assert_close(model.item(batch.items), (h @ w.T + b) / (1 + torch.exp(-(h @ v.T + c))))
        nn.init.constant_(c, -1e4)
        assert not model.item(batch.items).any()


def test_listwise_loss_is_off_unless_weighted(encoded: EncodedDataset, batch: Batch) -> None:
    logits, losses = made(encoded).relaxed(batch, 0.0)
    assert losses == {}
    again, losses = made(encoded, listwise=0.5).relaxed(batch, 0.0)
    assert torch.equal(again, logits)
    assert losses["listwise"].item() == pytest.approx(0.5 * listwise(logits, batch.labels).item())
    assert losses["listwise"].item() > 0
