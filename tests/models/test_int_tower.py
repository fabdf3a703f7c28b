"""IntTower: field weights, heads of every user layer, the contrastive loss, and its variants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from prerank.batch import Batch
from prerank.data.loader import EncodedDataset
from prerank.layers.pooling import mean_pool
from prerank.models.int_tower import IntTower, IntTowerConfig


def made(encoded: EncodedDataset, **changes: Any) -> IntTower:
    torch.manual_seed(0)
    sizes = {"embedding": 4, "embedding_std": 0.5, "tower": (16, 12, 8), "heads": 3, "head_width": 5}
    model = IntTower(encoded.encoder.inputs, IntTowerConfig(**{**sizes, **changes}))
    return model.eval()


@torch.no_grad()
def sides(model: IntTower, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return model.user(batch.user, model.history(batch)), model.item(batch.items).unflatten(0, batch.labels.shape)


@pytest.mark.parametrize("se", ["light", "senet"])
@pytest.mark.parametrize("side", ["user", "item"])
def test_field_weights_act_on_each_side(encoded: EncodedDataset, batch: Batch, se: str, side: str) -> None:
    """A field that gets no weight has no influence, and it had before."""
    model = made(encoded, se=se)
    weights = model.get_submodule(f"{side}_se.excite" if se == "light" else f"{side}_se.excite.2")
    features = getattr(batch, "user" if side == "user" else "items")
    second = list(getattr(model.inputs, side))[1]
    changed = type(features)({**features.columns, second: (features.columns[second] + 1) % 4}, features.rows)

    def represent(of: Any) -> torch.Tensor:
        return model.user(of, model.history(batch)) if side == "user" else model.item(of)

    with torch.no_grad():
        assert not torch.equal(represent(features), represent(changed))
        nn.init.zeros_(weights.get_parameter("weight"))  # weights by the bias alone, whatever the fields hold
        weights.get_parameter("bias")[1] = -1e4
        assert torch.equal(represent(features), represent(changed))
        weights.get_parameter("bias")[1] = 0
        assert not torch.equal(represent(features), represent(changed))


def test_score_is_the_sum_over_layers_of_sum_max(encoded: EncodedDataset, batch: Batch) -> None:
    """The whole user side rebuilt from its parts, the interaction by loops (eqs. 4 to 7)."""
    model = made(encoded)
    users, items = sides(model, batch)
    with torch.no_grad():
        x = model.user_se(torch.cat([model.user_fields(batch.user), mean_pool(model.history(batch))], dim=-1))
        layers = [head(h) for head, h in zip(model.user_heads, model.user_tower.every(x), strict=True)]
        assert torch.equal(users, torch.cat(layers, dim=-1))
        logits = model.score(users.unsqueeze(1), items)
    for b in range(4):
        for c in range(2):
            item = items[b, c].view(3, 5).numpy()
            total = 0.0
            for layer in layers:
                user = layer[b].view(3, 5).numpy()
                total += sum(max(float(u @ v) for v in item) for u in user)
            assert logits[b, c].item() == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_every_user_layer_counts_unless_the_last_alone_is_asked_for(encoded: EncodedDataset, batch: Batch) -> None:
    every, last = made(encoded), made(encoded, user_layers="last")
    assert [head.in_features for head in every.user_heads] == [16, 12, 8]
    assert [head.in_features for head in last.user_heads] == [8]
    assert [head.in_features for head in made(encoded, user_layers=2).user_heads] == [12]
    assert sides(last, batch)[0].shape == (len(batch.labels), 15)
    before = every(batch)
    nn.init.zeros_(every.get_parameter("user_heads.0.weight"))
    assert not torch.allclose(every(batch), before)


def test_a_layer_alone_scores_as_its_part_of_the_sum(encoded: EncodedDataset, batch: Batch) -> None:
    """With the same weights the three models of one layer add up to the model of all."""
    every = made(encoded)
    total = torch.zeros_like(every(batch))
    for number in (1, 2, 3):
        alone = made(encoded, user_layers=number)
        weights = {key: value for key, value in every.state_dict().items() if not key.startswith("user_heads.")}
        heads = {
            f"user_heads.0.{kind}": every.get_parameter(f"user_heads.{number - 1}.{kind}")
            for kind in ("weight", "bias")
        }
        alone.load_state_dict({**weights, **heads})
        total = total + alone(batch)
    torch.testing.assert_close(total, every(batch))


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValidationError, match="there is no layer 4"):
        IntTowerConfig(user_layers=4)


def test_one_layer_and_one_head_is_a_plain_inner_product(encoded: EncodedDataset, batch: Batch) -> None:
    model = made(encoded, tower=(8,), heads=1)
    users, items = sides(model, batch)
    with torch.no_grad():
        torch.testing.assert_close(model(batch), (users.unsqueeze(1) * items).sum(-1))


def test_contrastive_loss_equals_the_loop(encoded: EncodedDataset, batch: Batch) -> None:
    """Positives against the batch's items; another row of the positive's item is no negative."""
    model = made(encoded, cir=0.3, temperature=0.5)
    users, items = sides(model, batch)
    unit_items = (items / items.norm(dim=-1, keepdim=True)).flatten(0, 1).numpy()
    last = users[:, -15:]
    unit_users = (last / last.norm(dim=-1, keepdim=True)).numpy()
    ids = batch.items.columns["item_id"].numpy()  # type: ignore[union-attr]
    losses, masked = [], 0
    for row in batch.labels.flatten().nonzero().squeeze(1).tolist():
        scores = {n: np.exp(unit_users[row // 2] @ unit_items[n] / 0.5) for n in range(len(ids))}
        rivals = [n for n in range(len(ids)) if n == row or ids[n] != ids[row]]
        masked += len(ids) - len(rivals)
        losses.append(-np.log(scores[row] / sum(scores[n] for n in rivals)))
    assert masked > 0
    loss = model.relaxed(batch, 0.0)[1]["cir"]
    assert loss.item() == pytest.approx(0.3 * np.mean(losses), rel=1e-4)
    loss.backward()
    learners = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"user_tower", "item_tower", "item_heads", "user_fields", "item_fields"} <= learners


def test_form_of_the_official_code(encoded: EncodedDataset, batch: Batch) -> None:
    """Residual Light-SE, and the heads read the inputs of the user layers: h^0, h^1, h^2."""
    model = made(encoded, official_compat=True)
    with torch.no_grad():
        plain = torch.cat([model.user_fields(batch.user), mean_pool(model.history(batch))], dim=-1)
        e = plain.unflatten(-1, (4, 4))
        k = torch.softmax(e.mean(-1) @ model.get_parameter("user_se.excite.weight").T, dim=-1)
        x = (e + k.unsqueeze(-1) * e).flatten(-2)
        first = model.user_tower.every(x)
        expected = [head(h) for head, h in zip(model.user_heads, [x, *first], strict=True)]
    assert len(expected) == 3
    torch.testing.assert_close(sides(model, batch)[0], torch.cat(expected, dim=-1))
