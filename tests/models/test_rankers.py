"""The rankers' formulas against loops in NumPy, in double precision, on pairs drawn at random."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from prerank.models.registry import create, model_config
from prerank.models.single_tower import SingleTower
from prerank.schema import Inputs

INPUTS = Inputs({"u": 5, "v": 4}, {"i": 7, "j": 3}, ("i",), user_id="u", item_id="i", history_length=3)
FIELDS, WIDTH, PAIRS = 5, 4, 6
Array = NDArray[np.float64]


def made(name: str, **values: Any) -> Any:
    """A model in evaluation mode whose every number, BatchNorm's included, is drawn at random."""
    torch.manual_seed(3)
    model = create(model_config({"name": name, "embedding": WIDTH, **values}, "test"), INPUTS).double().eval()
    assert isinstance(model, SingleTower)
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.2 if value.ndim == 1 else torch.randn_like(value) / 2)
    return model.requires_grad_(False)


def pairs() -> tuple[torch.Tensor, Array]:
    fields = torch.randn(PAIRS, FIELDS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return fields, fields.numpy()


def weight(layer: Any) -> Array:
    return np.asarray(layer.weight)


def linear(layer: Any, x: Array) -> Array:
    out: Array = weight(layer) @ x
    return out if layer.bias is None else out + layer.bias.numpy()


def perceptron(tower: Any, x: Array) -> Array:
    for layer, norm, _ in zip(tower.layers[::3], tower.layers[1::3], tower.layers[2::3], strict=True):
        centred = (linear(layer, x) - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + norm.eps)
        x = np.maximum(centred * weight(norm) + norm.bias.numpy(), 0)
    return x


def second_order(fields: Array) -> float:
    return float(sum(one @ other for one, other in combinations(fields, 2)))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def check(model: Any, expected: list[Any]) -> None:
    np.testing.assert_allclose(model.logit(pairs()[0]).numpy(), np.array(expected).reshape(-1), atol=1e-10)


def test_wide_deep_and_deepfm() -> None:
    wide, deep = made("wide_deep", tower=(6, 3)), made("deepfm", tower=(6, 3))
    check(wide, [linear(wide.output, perceptron(wide.tower, x.ravel())) for x in pairs()[1]])
    check(deep, [second_order(x) + linear(deep.output, perceptron(deep.tower, x.ravel())) for x in pairs()[1]])


def test_dcn() -> None:
    model = made("dcn", tower=(6, 3), cross_layers=2)
    expected = []
    for fields in pairs()[1]:
        first = x = fields.ravel()
        for cross in model.crosses:
            x = np.outer(first, x) @ weight(cross.weight)[0] + cross.bias.numpy() + x
        expected.append(linear(model.output, np.concatenate([x, perceptron(model.tower, first)])))
    check(model, expected)


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("rank", [None, 2])
def test_dcn_v2(structure: str, rank: int | None) -> None:
    model = made("dcn_v2", tower=(6, 3), cross_layers=2, structure=structure, rank=rank)
    expected = []
    for fields in pairs()[1]:
        first = x = fields.ravel()
        for cross in model.crosses:
            layer = cross.weight
            if rank is None:
                x = first * linear(layer, x) + x
            else:
                assert weight(layer[0]).shape == (rank, len(first))
                x = first * ((weight(layer[1]) @ weight(layer[0])) @ x + layer[1].bias.numpy()) + x
        deep = perceptron(model.tower, x if structure == "stacked" else first)
        expected.append(linear(model.output, deep if structure == "stacked" else np.concatenate([x, deep])))
    check(model, expected)


@pytest.mark.parametrize("tower", [None, (6, 3)])
def test_autoint(tower: tuple[int, ...] | None) -> None:
    model = made("autoint", layers=2, heads=2, head_width=3, tower=tower)
    expected = []
    for fields in pairs()[1]:
        x = fields
        for layer in model.attention:
            rows = []
            for i in range(FIELDS):
                joined = []
                for head in (slice(0, 3), slice(3, 6)):
                    query = weight(layer.query)[head] @ x[i]
                    attention = softmax(np.array([query @ (weight(layer.key)[head] @ x[j]) for j in range(FIELDS)]))
                    joined.append(sum(attention[j] * (weight(layer.value)[head] @ x[j]) for j in range(FIELDS)))
                rows.append(np.maximum(np.concatenate(joined) + weight(layer.residual) @ x[i], 0))
            x = np.array(rows)
        logit = linear(model.output, x.ravel())
        if model.tower is not None and model.deep is not None:
            logit = logit + linear(model.deep, perceptron(model.tower, fields.ravel()))
        expected.append(logit)
    assert (model.linear is not None) == (tower is not None)
    check(model, expected)


def test_cold_and_fscd() -> None:
    """A weight from all embeddings, and in serving the probability that a gate is open."""
    cold, fscd = made("cold", tower=(6, 3)), made("fscd", tower=(6, 3))
    for_cold, for_fscd = [], []
    for fields in pairs()[1]:
        weights = sigmoid(linear(cold.excitation, fields.ravel()))
        for_cold.append(linear(cold.output, perceptron(cold.tower, (fields * weights[:, None]).ravel())))
        gates = sigmoid(fscd.open.numpy())
        for_fscd.append(linear(fscd.output, perceptron(fscd.tower, (fields * gates[:, None]).ravel())))
    check(cold, for_cold)
    check(fscd, for_fscd)


def bridged(bridge: Any, x: Array, h: Array) -> Array:
    match bridge.name:
        case "hadamard":
            return x * h
        case "sum":
            return x + h
        case "concat":
            return np.maximum(linear(bridge.joint, np.concatenate([x, h])), 0)
        case "attention":
            scores = [
                (weight(key[2]) @ np.maximum(linear(key[0], branch), 0))[0]
                for key, branch in zip(bridge.keys, (x, h), strict=True)
            ]
            of_x, of_h = softmax(np.array(scores))
            return np.asarray(of_x * x + of_h * h)
    raise AssertionError(bridge.name)


@pytest.mark.parametrize("bridge", ["hadamard", "sum", "concat", "attention"])
def test_edcn(bridge: str) -> None:
    """Two layers: both branches of the second one read the first one's bridge, each through gates of its own."""
    model = made("edcn", layers=2, bridge=bridge, temperature=0.5)
    expected = []
    for fields in pairs()[1]:
        joined, first = fields, np.zeros(0)
        for number in range(2):
            gates = model.regulations[number].gates.numpy()
            x, h = ((joined * softmax(gate / 0.5)[:, None]).ravel() for gate in gates)
            first = first if number else x
            cross = model.crosses[number]
            x, h = first * (weight(cross.weight)[0] @ x) + cross.bias.numpy() + x, perceptron(model.deeps[number], h)
            joined = bridged(model.bridges[number], x, h).reshape(FIELDS, WIDTH)
        expected.append(linear(model.output, np.concatenate([x, h, joined.ravel()])))
    check(model, expected)
