"""What each precision keeps of a number."""

from __future__ import annotations

import pytest
import torch

from prerank.publish.precision import PRECISIONS, Precision, Vectors, limit

SHARE: dict[Precision, float] = {"float32": 1.0, "float16": 0.5, "bfloat16": 0.5, "int8": 132 / 512}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_error_and_size(precision: Precision) -> None:
    values = torch.randn(1000, 128, generator=torch.Generator().manual_seed(0))
    stored = Vectors.store(values, precision)
    assert stored.nbytes == SHARE[precision] * values.nbytes  # int8: at most 0.28
    error = (stored.take(torch.arange(1000)) - values).abs()
    bits = {"float32": 24, "float16": 11, "bfloat16": 8}
    if precision == "int8":
        largest = values.abs().amax(dim=1, keepdim=True)
        assert (error <= largest / 254 * 1.00001).all() and error.max() > 0
    else:
        assert (error <= values.abs() * 2.0 ** -bits[precision] + 2.0**-25).all()


def test_int8_by_hand() -> None:
    stored = Vectors.store(torch.tensor([[-12.7, 0.04, 0.06, 6.0], [0.0, 0.0, 0.0, 0.0]]), "int8")
    assert stored.values.tolist() == [[-127, 0, 1, 60], [0, 0, 0, 0]]
    assert stored.scales is not None
    torch.testing.assert_close(stored.scales, torch.tensor([0.1, 0.0]))
    torch.testing.assert_close(stored.take(torch.tensor([1, 0])), torch.tensor([[0.0] * 4, [-12.7, 0.0, 0.1, 6.0]]))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_limit_is_kept(precision: Precision) -> None:
    values = torch.tensor([[limit(precision), -limit(precision), 0.0]])
    kept = Vectors.store(values, precision).take(torch.tensor([0]))
    torch.testing.assert_close(kept, values, rtol=1e-6, atol=0)


def test_parts_and_picks_are_the_stored_values() -> None:
    stored = Vectors.store(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), "int8")
    every = torch.arange(6)
    assert torch.equal(stored.part(2, 5).take(every[:3]), stored.take(every[2:5]))
    assert torch.equal(stored.pick(every[[4, 4, 0]]).take(every[:3]), stored.take(every[[4, 4, 0]]))
