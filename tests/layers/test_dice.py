"""DiceLinear against the formula written out, and its statistics against BatchNorm's."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prerank.layers import blocks, compiled
from prerank.layers.dice import DiceLinear


class Plain(nn.Module):
    """The same layer from PyTorch's parts, differentiated by autograd."""

    def __init__(self, layer: DiceLinear) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(len(layer.alpha), eps=1e-8, affine=False, dtype=layer.alpha.dtype)
        self.alpha = nn.Parameter(layer.alpha.detach().clone())
        self.linear = copy.deepcopy(layer.linear)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.norm(x))
        out: Tensor = self.linear(gate * x + (1 - gate) * self.alpha * x)
        return out


def layer(channels: int = 5, outputs: int = 3, dtype: torch.dtype = torch.float64) -> DiceLinear:
    torch.manual_seed(0)
    made = DiceLinear(channels, outputs).to(dtype)
    nn.init.uniform_(made.alpha, -0.5, 0.9)
    return made


@pytest.fixture(params=[6, 10**9], ids=["blocks of one row", "one block"])
def numbers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "NUMBERS", request.param)


def test_evaluation_is_the_closed_form() -> None:
    made = DiceLinear(2, 1).eval()
    with torch.no_grad():
        made.alpha.copy_(torch.tensor([0.25, 0.0]))
        made.running_mean.copy_(torch.tensor([1.0, -2.0]))
        made.running_var.copy_(torch.tensor([4.0, 0.25]))
        made.linear.weight.copy_(torch.tensor([[2.0, 3.0]]))
        made.linear.bias.fill_(0.5)
    x = np.array([[3.0, -1.0], [-4.0, 5.0]])
    gate = 1 / (1 + np.exp(-(x - [1.0, -2.0]) / np.sqrt(np.array([4.0, 0.25]) + 1e-8)))
    dice = gate * x + (1 - gate) * np.array([0.25, 0.0]) * x
    expected = dice @ [2.0, 3.0] + 0.5
    np.testing.assert_allclose(made(torch.tensor(x, dtype=torch.float32)).squeeze(1).detach(), expected, rtol=1e-5)


def test_alpha_starts_at_zero_and_at_one_the_activation_is_the_identity() -> None:
    made = layer()
    assert not DiceLinear(4, 2).alpha.any()
    nn.init.ones_(made.alpha)
    x = torch.randn(7, 5, dtype=torch.float64)
    torch.testing.assert_close(made(x), made.linear(x))


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize("training", [True, False])
def test_values_gradients_and_statistics_equal_the_plain_layer(training: bool) -> None:
    made = layer().train(training)
    plain = Plain(made).train(training)
    for scale in (1.0, 3.0):
        x = (scale * torch.randn(11, 5, dtype=torch.float64) + 2).requires_grad_()
        twin = x.detach().clone().requires_grad_()
        weights = torch.randn(11, 3, dtype=torch.float64)
        out, expected = made(x), plain(twin)
        (out * weights).sum().backward()
        (expected * weights).sum().backward()
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(x.grad, twin.grad)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(made.get_parameter(name).grad, parameter.grad, msg=name)
    torch.testing.assert_close(made.running_mean, plain.norm.running_mean)
    torch.testing.assert_close(made.running_var, plain.norm.running_var)


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize("training", [True, False])
def test_gradients_equal_finite_differences(training: bool) -> None:
    made = layer(3, 2).train(training)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parameters = {"alpha": alpha, "linear.weight": weight, "linear.bias": bias}
        out: Tensor = torch.func.functional_call(made, parameters, (x,))
        return out

    assert torch.autograd.gradcheck(function, (x, made.alpha, made.linear.weight, made.linear.bias))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("rows", "channels", "outputs"), [(1, 3, 2), (63, 64, 16), (200, 16, 1), (4500, 27, 41)])
def test_compiled_is_as_exact_as_the_plain_layer(training: bool, rows: int, channels: int, outputs: int) -> None:
    """Float32 against the plain layer in float64, for widths that fill vectors and those that do not."""
    made = layer(channels, outputs, torch.float32).train(training)
    plain = Plain(copy.deepcopy(made).double()).train(training and rows > 1)
    x = (torch.randn(rows, channels) * 2 + 1).requires_grad_()
    twin, weights = x.detach().double().requires_grad_(), torch.randn(rows, outputs)
    assert compiled.usable(x, rows)
    out, expected = made(x), plain(twin)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    ours, theirs = [(x, twin)], dict(plain.named_parameters())
    for one, two in ours + [(made.get_parameter(name), theirs[name]) for name in theirs]:
        assert one.grad is not None and two.grad is not None
        scale = float(two.grad.abs().max())
        torch.testing.assert_close(one.grad.double(), two.grad, rtol=0, atol=3e-5 * scale)
    torch.testing.assert_close(made.running_mean.double(), plain.norm.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(made.running_var.double(), plain.norm.running_var, rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(st.integers(2, 300), st.integers(1, 700))
def test_blocks_change_nothing_but_rounding(rows: int, numbers: int) -> None:
    x = torch.randn(rows, 4)
    one, several = layer(4, dtype=torch.float32), layer(4, dtype=torch.float32)
    expected = one(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "NUMBERS", numbers)
        patch.setattr(compiled, "usable", lambda *_: False)
        out = several(x)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(several.running_var, one.running_var, rtol=1e-5, atol=1e-6)


def test_a_large_mean_costs_no_precision() -> None:
    x = torch.randn(4000, 2) + torch.tensor([1000.0, 0.0])
    made = layer(2, dtype=torch.float32)
    made(x)
    var = x.double().var(0)
    torch.testing.assert_close(made.running_var.double(), 0.9 + 0.1 * var, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_any_rows_use_the_running_statistics(rows: int) -> None:
    made = layer()
    made.running_mean.fill_(0.5)
    x = torch.randn(rows, 5, dtype=torch.float64, requires_grad=True)
    out = made(x)
    torch.testing.assert_close(out, made.eval()(x))
    assert (made.running_mean == 0.5).all()
    out.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert made.alpha.grad is not None and bool(made.alpha.grad.any()) == (rows > 0)
