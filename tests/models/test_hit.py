"""HIT: generators imitate partners, feed the towers, and learn from nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from prerank.batch import Batch
from prerank.data.loader import EncodedDataset
from prerank.models.hit import HIT, HITConfig

GENERATORS = {"user_generators", "item_generators"}


def made(encoded: EncodedDataset, **changes: Any) -> HIT:
    torch.manual_seed(0)
    sizes = {"embedding": 4, "embedding_std": 0.5, "tower": (16, 8), "generator": (6,), "head_width": 3, **changes}
    return HIT(encoded.encoder.inputs, HITConfig(**sizes)).eval()


def learners(model: HIT) -> set[str]:
    return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def test_generation_loss_reaches_the_generators_only(encoded: EncodedDataset, batch: Batch) -> None:
    model = made(encoded)
    _, losses = model.relaxed(batch, 0.0)
    assert set(losses) == {"generation_target", "generation_non_target"}
    torch.stack(list(losses.values())).sum().backward()
    assert learners(model) == GENERATORS


def test_cross_entropy_does_not_reach_the_generators(encoded: EncodedDataset, batch: Batch) -> None:
    model = made(encoded)
    nn.functional.binary_cross_entropy_with_logits(model(batch), batch.labels).backward()
    assert learners(model) == {"user_fields", "item_fields", "user_tower", "item_tower", "user_heads", "item_heads"}


@pytest.mark.parametrize("which", [0, 1])
def test_towers_read_what_is_generated(encoded: EncodedDataset, batch: Batch, which: int) -> None:
    model = made(encoded)
    with torch.no_grad():
        before = model(batch)
        nn.init.constant_(model.get_parameter(f"user_generators.{which}.2.bias"), 3.0)
        by_user = model(batch)
        nn.init.constant_(model.get_parameter(f"item_generators.{which}.2.bias"), 3.0)
        assert not torch.allclose(before, by_user)
        assert not torch.allclose(by_user, model(batch))


def test_each_generator_imitates_its_own_kind_of_partner(encoded: EncodedDataset, batch: Batch) -> None:
    """Equal to loops: the first generator over positive pairs, the second over negative ones, on both sides."""
    model = made(encoded)
    with torch.no_grad():
        users, of_users = model._user(batch.user, model.history(batch))
        items, of_items = model._item(batch.items)
        losses = model.relaxed(batch, 0.0)[1]
    for number, (name, label) in enumerate((("target", 1), ("non_target", 0))):
        pairs = [(n // 2, n) for n in range(len(items)) if batch.labels.flatten()[n] == label]
        total = 0.0
        for b, n in pairs:
            total += 1 - torch.cosine_similarity(of_users[number][b], items[n], dim=0).item()
            total += 1 - torch.cosine_similarity(of_items[number][n], users[b], dim=0).item()
        assert losses[f"generation_{name}"].item() == pytest.approx(0.1 * total / len(pairs), rel=1e-4)


def test_imitation_is_learned_and_the_other_sign_undoes_it(encoded: EncodedDataset, batch: Batch) -> None:
    for weight, towards in ((0.1, True), (-0.1, False)):
        model = made(encoded, generation=weight)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
        first = 0.0
        for step in range(60):
            loss = sum(model.relaxed(batch, 0.0)[1].values(), torch.zeros(()))
            first = loss.item() if step == 0 else first
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        distance, before = loss.item() / weight, first / weight
        assert (distance < 0.7 * before) if towards else (distance > 1.3 * before)
