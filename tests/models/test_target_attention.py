"""DIN and DIEN against their formulas in NumPy, and how they read the history from a user row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.layers.test_gru import twin as gru_twin
from torch import Tensor, nn

from prerank.batch import Batch, Features, History, Ragged
from prerank.layers.dice import DiceLinear
from prerank.layers.dien import DIENUnit
from prerank.layers.interaction import DINUnit
from prerank.models import target_attention
from prerank.models.rankers.dien import DIEN
from prerank.models.registry import create, model_config
from prerank.models.target_attention import TargetAttention
from prerank.schema import Inputs

Array = NDArray[np.float64]
USER = {"user_id": 5, "age": 4}
ITEM = {"genre": 6, "item_id": 9}  # the history has them in the other order
INPUTS = Inputs(
    user=USER,
    item=ITEM,
    history=("item_id", "genre"),
    user_id="user_id",
    item_id="item_id",
    history_length=4,
)
LENGTHS = [3, 0, 4]
VARIANTS: dict[str, dict[str, Any]] = {
    "din": {"name": "din", "attention": (5, 3)},
    "dien": {"name": "dien"},
    "dien code": {"name": "dien", "augru": "code"},
}


@pytest.fixture(params=list(VARIANTS))
def model(request: pytest.FixtureRequest) -> TargetAttention:
    return made(request.param)


def made(variant: str) -> TargetAttention:
    """A model with moved statistics and alphas, in eval mode and float64."""
    torch.manual_seed(4)
    values = {"embedding": 3, "embedding_std": 0.7, "tower": (6, 4), **VARIANTS[variant]}
    model = create(model_config(values, "test"), INPUTS)
    assert isinstance(model, TargetAttention)
    for name, tensor in model.state_dict().items():
        if name.endswith(("alpha", "running_mean")):
            nn.init.uniform_(tensor, 0.1, 0.6)
        elif name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2.0)
    return model.double().eval()


def ids(size: int, rows: int, seed: int) -> Tensor:
    return torch.randint(0, size, (rows,), generator=torch.Generator().manual_seed(seed))


def items(rows: int, seed: int) -> Features:
    return Features({name: ids(size, rows, seed + i) for i, (name, size) in enumerate(ITEM.items())}, rows)


def batch(lengths: list[int], candidates: int = 2) -> Batch:
    requests = len(lengths)
    steps = Ragged(ids(7, sum(lengths), 1), torch.tensor([0, *lengths]).cumsum(0))
    user = Features({name: ids(size, requests, 20 + i) for i, (name, size) in enumerate(USER.items())}, requests)
    labels = torch.zeros(requests, candidates).index_fill(1, torch.tensor([0]), 1.0)
    return Batch(user, items(7, 30), steps, items(requests * candidates, 40), labels)


def array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().numpy(), dtype=np.float64)


def dice_layers(x: Array, layers: nn.Sequential) -> Array:
    """DiceLinear after DiceLinear, in evaluation."""
    for layer in layers:
        assert isinstance(layer, DiceLinear)
        gate = 1 / (1 + np.exp(-(x - array(layer.running_mean)) / np.sqrt(array(layer.running_var) + 1e-8)))
        x = (gate + (1 - gate) * array(layer.alpha)) * x
        x = array(layer.linear.weight) @ x + array(layer.linear.bias)
    return x


def din(unit: DINUnit, q: Array, past: Array) -> list[Array]:
    pool = np.zeros_like(q)
    for e in past:
        x = array(unit.first.weight) @ np.concatenate([q, e, q - e, q * e]) + array(unit.first.bias)
        pool = pool + dice_layers(x, unit.rest) * e
    return [pool, pool * q]


def dien(unit: DIENUnit, q: Array, past: Array) -> list[Array]:
    total = past.sum(0)
    if not len(past):
        return [np.zeros_like(q), total, total * q]
    interests = np.stack([gru_twin(unit.extractor, past[:n], np.ones(n)) for n in range(1, len(past) + 1)])
    scores = np.exp(interests @ array(unit.attention.weight) @ q)
    return [gru_twin(unit.evolution, interests, scores / scores.sum()), total, total * q]


def expected(model: TargetAttention, rows: Batch) -> Array:
    """Every logit by itself, from ids to the head."""
    tables = {
        name: array(table)
        for names, side in ((INPUTS.user, model.user_fields), (INPUTS.item, model.item_fields))
        for name, table in zip(names, side.tables, strict=True)
    }

    def fields(features: Features, row: int, names: Any) -> Array:
        columns = [features.columns[name] for name in names]
        assert all(isinstance(column, Tensor) for column in columns)
        return np.concatenate([tables[name][int(features.columns[name][row])] for name in names])  # type: ignore[index]

    out, norm, first = np.zeros(rows.labels.shape), model.head.norm, model.head.first
    places = rows.history.values.split(rows.history.lengths.tolist())
    for b in range(len(out)):
        past = np.array([fields(rows.behaviours, int(place), INPUTS.history) for place in places[b]]).reshape(-1, 6)
        for c in range(out.shape[1]):
            row = b * out.shape[1] + c
            q = fields(rows.items, row, INPUTS.history)
            unit = model.unit
            met = din(unit, q, past) if isinstance(unit, DINUnit) else dien(unit, q, past)  # type: ignore[arg-type]
            x = np.concatenate([fields(rows.user, b, INPUTS.user), fields(rows.items, row, INPUTS.item), *met])
            assert norm.running_mean is not None
            assert norm.running_var is not None
            x = (x - array(norm.running_mean)) / np.sqrt(array(norm.running_var) + 1e-5)
            x = x * array(norm.weight) + array(norm.bias)
            x = dice_layers(array(first.weight) @ x + array(first.bias), model.head.rest)
            out[b, c] = x[0]
    return out


def test_equals_the_formula(model: TargetAttention) -> None:
    rows = batch(LENGTHS)
    np.testing.assert_allclose(array(model(rows)), expected(model, rows), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(array(served(model, rows)), expected(model, rows), rtol=1e-8, atol=1e-8)


def served(model: TargetAttention, rows: Batch) -> Tensor:
    """By user, item and score."""
    users = model.user(rows.user, model.history(rows))
    return model.score(users.unsqueeze(1), model.item(rows.items).unflatten(0, rows.labels.shape))


@pytest.mark.parametrize("pairs", [1, 9, 50])
def test_blocks_change_nothing_and_bound_the_attention(
    model: TargetAttention, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = batch(LENGTHS, candidates=11)
    whole, seen = served(model, rows), []
    hook = model.unit.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[:2].numel()))
    monkeypatch.setattr(target_attention, "PAIRS", pairs)
    torch.testing.assert_close(served(model, rows), whole)
    assert max(seen) * INPUTS.history_length <= max(pairs, INPUTS.history_length)
    hook.remove()


def test_slots_beyond_the_length_are_never_read(model: TargetAttention) -> None:
    rows = batch(LENGTHS)
    users = model.user(rows.user, model.history(rows)).detach()
    expected_width = model.user_width + 4 * model.behaviour_width + 1
    assert users.shape == (3, expected_width)
    assert users[:, -1].tolist() == LENGTHS
    item = model.item(rows.items)[:1]
    whole = model.score(users, item)
    for row, length in enumerate(LENGTHS):
        users[row, model.user_width + length * model.behaviour_width : -1] = float("nan")
    torch.testing.assert_close(model.score(users, item), whole)


def test_of_a_longer_history_the_most_recent_behaviours_count(model: TargetAttention) -> None:
    rows = batch([9])
    recent = History(model.history(rows).table, Ragged(rows.history.values[-4:], torch.tensor([0, 4])))
    torch.testing.assert_close(model.user(rows.user, model.history(rows)), model.user(rows.user, recent))


SHAPES = [((), ()), ((), (3,)), ((3,), ()), ((3,), (3,)), ((2, 1), (3,)), ((2, 1), (1, 3)), ((2, 1), (2, 3))]


@pytest.mark.parametrize("shapes", [*SHAPES, ((0,), ()), ((), (0,))])
def test_leading_dimensions_broadcast(model: TargetAttention, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    rows = batch(LENGTHS)
    users, catalogue = model.user(rows.user, model.history(rows)), model.item(rows.items)
    user = users[: int(np.prod(shapes[0]))].view(*shapes[0], users.shape[1])
    item = catalogue[: int(np.prod(shapes[1]))].view(*shapes[1], catalogue.shape[1])
    out = model.score(user, item)
    shape = torch.broadcast_shapes(*shapes)
    assert out.shape == shape
    every = model.score(users.unsqueeze(1), catalogue)
    of_user = torch.arange(int(np.prod(shapes[0]))).view(shapes[0]).expand(shape)
    of_item = torch.arange(int(np.prod(shapes[1]))).view(shapes[1]).expand(shape)
    torch.testing.assert_close(out, every[of_user, of_item])


def test_dien_learns_the_next_behaviour_too() -> None:
    model = made("dien").train()
    assert isinstance(model, DIEN)
    logits, losses = model.relaxed(batch(LENGTHS), 0.0)
    torch.testing.assert_close(logits, model(batch(LENGTHS)))
    assert list(losses) == ["next_behaviour"]
    losses["next_behaviour"].backward()
    assert all(
        parameter.grad is not None and parameter.grad.any()
        for parameter in model.unit.get_submodule("extractor").parameters()
    )
