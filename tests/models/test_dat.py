"""DAT: augmented vectors are learned, imitate the other tower, and categories are aligned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prerank.batch import Batch, Features
from prerank.data.loader import EncodedDataset
from prerank.errors import ConfigError
from prerank.models.dat import DAT, DATConfig
from prerank.schema import Scaled

SMALL = DATConfig(embedding=4, embedding_std=0.5, tower=(16, 6))


@pytest.fixture
def model(encoded: EncodedDataset) -> DAT:
    torch.manual_seed(0)
    return DAT(encoded.encoder.inputs, SMALL)


def ids(features: Features, name: str) -> torch.Tensor:
    column = features.columns[name]
    assert isinstance(column, torch.Tensor)
    return column


def learners(model: DAT) -> set[str]:
    """The parts that hold a gradient other than zero."""
    return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def test_augmented_vectors_are_of_the_id_and_nothing_random(model: DAT, batch: Batch) -> None:
    model.eval()
    with torch.no_grad():
        before = model(batch)
        assert torch.equal(model(batch), before)
        user, item = int(ids(batch.user, "user_id")[0]), int(ids(batch.items, "item_id")[0])
        model.user_augmented.tables[0][user] += 1
        of_user = model(batch)
        model.item_augmented.tables[0][item] += 1
        of_item = model(batch)
    assert (of_user != before)[0].all()
    assert (of_item != of_user)[0, 0]
    others = (ids(batch.user, "user_id") != user).nonzero().squeeze(1)
    assert torch.equal(of_user[others], before[others])


def test_unseen_ids_share_a_row(model: DAT, encoded: EncodedDataset) -> None:
    unseen: Features = encoded.encoder.encode_values("item", [{"item_id": "new"}, {"item_id": "newer"}])
    with torch.no_grad():
        model.item_augmented.tables[0][0] = torch.arange(6.0)
        assert model.item_augmented(unseen).tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]] * 2


def test_mimic_losses_equal_numpy_and_reach_the_augmented_vectors_only(model: DAT, batch: Batch) -> None:
    _, losses = model.relaxed(batch, 0.0)
    with torch.no_grad():
        users = model.user(batch.user, model.history(batch)).numpy()
        items = model.item(batch.items).view(-1, 2, 6).numpy()
        of_users = model.user_augmented(batch.user).numpy()
        of_items = model.item_augmented(batch.items).view(-1, 2, 6).numpy()
    pairs = [(b, c) for b in range(len(users)) for c in range(2) if batch.labels[b, c] == 1]
    assert 0 < len(pairs) < batch.labels.numel()
    by_user = sum(((of_users[b] - items[b, c]) ** 2).sum() for b, c in pairs) / batch.labels.numel()
    by_item = sum(((of_items[b, c] - users[b]) ** 2).sum() for b, c in pairs) / batch.labels.numel()
    assert losses["mimic_user"].item() == pytest.approx(0.5 * by_user, rel=1e-5)
    assert losses["mimic_item"].item() == pytest.approx(0.5 * by_item, rel=1e-5)
    losses["mimic_user"].backward(retain_graph=True)
    assert learners(model) == {"user_augmented"}
    model.zero_grad()
    losses["mimic_item"].backward()
    assert learners(model) == {"item_augmented"}


def test_imitation_is_learned(model: DAT, batch: Batch) -> None:
    """Descent on the mimic loss alone takes a user's vector to the mean of the positive partners."""
    optimiser = torch.optim.SGD(model.user_augmented.parameters(), lr=10.0)
    for _ in range(300):
        optimiser.zero_grad()
        model.eval().relaxed(batch, 0.0)[1]["mimic_user"].backward()
        optimiser.step()
    with torch.no_grad():
        items = model.item(batch.items).view(-1, 2, 6)[:, 0]
        of_row = ids(batch.user, "user_id")
        for row in range(len(items)):
            expected = items[of_row == of_row[row]].mean(dim=0)
            torch.testing.assert_close(model.user_augmented(batch.user)[row], expected, atol=1e-3, rtol=0)


def test_alignment_equals_numpy_covariances(model: DAT, batch: Batch) -> None:
    vectors = model.item(batch.items).detach().numpy()
    categories = ids(batch.items, "category").numpy()
    names, counts = np.unique(categories, return_counts=True)
    assert len(names) == 4
    covariances = {name: np.cov(vectors[categories == name].T) for name in names}
    largest = covariances[names[counts.argmax()]]
    expected = np.mean([((largest - covariances[name]) ** 2).sum() for name in names])
    loss = model.relaxed(batch, 0.0)[1]["alignment"]
    assert loss.item() == pytest.approx(expected, rel=1e-3)
    loss.backward()
    assert {"item_tower", "item_fields"} <= learners(model)
    assert "user_tower" not in learners(model)


def test_which_field_is_the_category(encoded: EncodedDataset, batch: Batch) -> None:
    inputs = encoded.encoder.inputs
    assert DAT(inputs, SMALL).category == "category"
    ids_only = DAT(replace(inputs, history=("item_id",)), SMALL)
    assert ids_only.category is None
    assert set(ids_only.relaxed(batch, 0.0)[1]) == {"mimic_user", "mimic_item"}
    named = SMALL.model_copy(update={"category": "item_id"})
    assert DAT(inputs, named).category == "item_id"
    number = replace(inputs, item={**inputs.item, "category": Scaled()})
    assert DAT(number, SMALL).category is None
    with pytest.raises(
        ConfigError, match=r"model\.category: 'brand' is not an item field with ids; those are: item_id"
    ):
        DAT(inputs, SMALL.model_copy(update={"category": "brand"}))


@pytest.mark.parametrize("side", ["user", "item"])
def test_ids_must_be_fields(encoded: EncodedDataset, side: str) -> None:
    inputs = encoded.encoder.inputs
    fields = {name: size for name, size in getattr(inputs, side).items() if name != f"{side}_id"}
    without = replace(inputs, user=fields) if side == "user" else replace(inputs, item=fields)
    with pytest.raises(ConfigError, match=f"'{side}_id' is not among the {side} fields"):
        DAT(without, SMALL)
