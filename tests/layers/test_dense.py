"""Dense against nn.Linear: values, gradients, and where it has to be nn.Linear itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prerank.layers import dense
from prerank.layers.dense import Dense


def pair(inputs: int, outputs: int, bias: bool = True) -> tuple[Dense, nn.Linear]:
    torch.manual_seed(0)
    made, plain = Dense(inputs, outputs, bias=bias), nn.Linear(inputs, outputs, bias=bias)
    plain.load_state_dict(made.state_dict())
    return made, plain


def results(layer: nn.Linear, x: Tensor) -> list[Tensor]:
    own = x.clone().requires_grad_()
    out = layer(own)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weights).sum(), [own, *layer.parameters()])]


@pytest.mark.parametrize("shape", [(300, 40), (20, 15, 40), (0, 40), (1, 40)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_linear(shape: tuple[int, ...], bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the order of sums, however few the rows."""
    monkeypatch.setattr(dense, "FEWEST", 1)
    made, plain = pair(40, 24, bias)
    x = torch.randn(shape)
    for one, two in zip(results(made, x), results(plain, x), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not dense._WIDE, reason="PyTorch's own choice is as good here")
def test_towers_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        used.append(x)
        return x @ weight.T + bias

    monkeypatch.setattr(dense._Dense, "apply", product)
    made, _ = pair(300, 128)
    made(torch.randn(1024, 300))
    assert used
    made(torch.randn(2, 300))
    made.double()(torch.randn(1024, 300, dtype=torch.float64))
    assert len(used) == 1


def test_frozen_weights_take_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "FEWEST", 1)
    made, _ = pair(8, 8)
    made.weight.requires_grad_(False)
    x = torch.randn(16, 8, requires_grad=True)
    made(x).sum().backward()
    assert made.weight.grad is None
    torch.testing.assert_close(x.grad, made.weight.sum(0).expand(16, -1))


def test_autocast_is_linear_s_own() -> None:
    made, _ = pair(64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert made(torch.randn(512, 64)).dtype == torch.bfloat16
