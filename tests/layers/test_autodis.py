"""Numbers in embedding tables: arithmetic by hand, a loop in plain NumPy, missing values, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prerank.batch import Features
from prerank.layers.autodis import AutoDisWeights
from prerank.layers.embedding import FieldEmbeddings
from prerank.schema import AutoDis, Scaled

NUMBERS = torch.tensor([0.0, 0.3, 1.0, float("nan")])


def plain_weights(made: AutoDisWeights, number: float) -> Any:
    """AutoDis written with loops."""
    spread, mix = made.spread.detach().double().numpy(), made.mix.weight.detach().double().numpy()
    h = np.array([w * number if w * number > 0 else 0.01 * w * number for w in spread])
    logits = []
    for row, own in zip(mix, h, strict=True):
        logits.append((sum(a * b for a, b in zip(row, h, strict=True)) + made.skip.item() * own) / made.temperature)
    powers = np.exp(np.array(logits) - max(logits))
    return powers / powers.sum()


def test_autodis_is_the_loop() -> None:
    torch.manual_seed(0)
    made = AutoDisWeights(5, temperature=0.2)
    with torch.no_grad():
        made.skip.fill_(0.7)
    weights = made(NUMBERS[:3])
    for row, number in zip(weights, NUMBERS.tolist(), strict=False):
        np.testing.assert_allclose(row.detach(), plain_weights(made, number), rtol=1e-5)
    assert weights[0].tolist() == pytest.approx([0.2] * 5)


def test_the_temperature_decides_how_many_embeddings_mix() -> None:
    torch.manual_seed(0)
    made = AutoDisWeights(8, temperature=1e-4)
    sharp = made(torch.ones(1)).max().item()
    made.temperature = 1e4
    assert sharp == pytest.approx(1) and made(torch.ones(1)).max().item() == pytest.approx(1 / 8, rel=1e-3)


def filled(fields: FieldEmbeddings) -> FieldEmbeddings:
    """The tables' rows are (1, 10), (2, 20), …"""
    with torch.no_grad():
        for table in fields.tables:
            table.copy_(
                torch.arange(1.0, len(table) + 1).unsqueeze(1) * torch.tensor([[1.0, 10.0]])[:, : table.shape[1]]
            )
    return fields


@pytest.mark.parametrize("width", [1, 2])
def test_a_scaled_number_is_a_multiple_of_its_vector(width: int) -> None:
    """Row 0 is for the missing number, row 1, (2, 20), is multiplied; width 1 is the weight of a linear term."""
    fields = filled(FieldEmbeddings({"age": Scaled(), "city": 3}, width, std=1.0))
    features = Features({"city": torch.tensor([0, 1, 2, 2]), "age": torch.tensor([0.0, 1.5, -1.0, float("nan")])}, 4)
    expected = torch.tensor([[0.0, 0, 1, 10], [3, 30, 2, 20], [-2, -20, 3, 30], [1, 10, 3, 30]])
    chosen = [0, 2] if width == 1 else [0, 1, 2, 3]
    assert fields(features).tolist() == expected[:, chosen].tolist()


def test_an_autodis_number_mixes_rows_from_one_on() -> None:
    torch.manual_seed(1)
    fields = filled(FieldEmbeddings({"city": 3, "age": AutoDis(4, 0.3)}, 2, std=1.0))
    out = fields(Features({"age": NUMBERS}, 4), ["age"])
    made = fields.weightings["1"]
    assert isinstance(made, AutoDisWeights)
    for row, number in zip(out[:3].tolist(), NUMBERS.tolist(), strict=False):
        mean = plain_weights(made, number) @ np.array([2.0, 3, 4, 5])
        assert row == pytest.approx([mean, 10 * mean], rel=1e-5)
    assert out[3].tolist() == [1, 10]


@pytest.mark.parametrize("values", [Scaled(), AutoDis(4, 0.1)])
def test_missing_numbers_teach_the_row_of_missing_ones_alone(values: Scaled | AutoDis) -> None:
    def gradients(numbers: Tensor) -> Tensor:
        fields = FieldEmbeddings({"age": values}, 3, std=1.0)
        assert not fields.tables[0][0].any() and fields.tables[0][1:].all()
        fields(Features({"age": numbers}, len(numbers))).sum().backward()
        assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in fields.parameters())
        gradient: Tensor | None = fields.tables[0].grad
        assert gradient is not None
        return gradient

    missing = gradients(torch.tensor([float("nan")]))
    assert missing[0].all() and not missing[1:].any()
    known = gradients(torch.tensor([0.5]))
    assert not known[0].any() and known[1:].all()
