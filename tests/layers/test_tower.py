"""The tower against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from prerank.layers.tower import Tower


def test_evaluation_by_hand() -> None:
    tower = Tower(2, (2, 1)).eval()
    linear, norm = tower.layers[0], tower.layers[1]
    last = tower.layers[3]
    assert isinstance(linear, nn.Linear) and isinstance(norm, nn.BatchNorm1d) and isinstance(last, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.0]]))
        linear.bias.copy_(torch.tensor([0.25, -0.5]))
        norm.running_mean.copy_(torch.tensor([1.0, 0.0]))  # type: ignore[union-attr]
        norm.running_var.copy_(torch.tensor([4.0, 1.0]) - norm.eps)  # type: ignore[union-attr]
        norm.weight.copy_(torch.tensor([3.0, 1.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.0]))
        last.weight.copy_(torch.tensor([[2.0, 7.0]]))
        last.bias.fill_(0.75)
    out = tower(torch.tensor([[3.0, 2.0], [-3.0, 1.0]]))
    first = 3 * (3 + 4 + 0.25 - 1) / 2 + 0.5  # the second unit, -3.5, is cut off
    second = [max(0.0, 3 * (-3 + 2 + 0.25 - 1) / 2 + 0.5), 3.0 - 0.5]
    scale = 1 / np.sqrt(1 + 1e-5)
    expected = [(2 * first + 0.75) * scale, (2 * second[0] + 7 * second[1] + 0.75) * scale]
    np.testing.assert_allclose(out.detach()[:, 0], expected, rtol=1e-6)


def test_every_layer_is_normalised_in_training_and_the_last_is_rectified() -> None:
    torch.manual_seed(0)
    tower = Tower(5, (7, 3)).train()
    x = 100 + 30 * torch.randn(64, 5)
    h = x.double().numpy()
    for linear, norm in ((tower.layers[0], tower.layers[1]), (tower.layers[3], tower.layers[4])):
        assert isinstance(linear, nn.Linear) and isinstance(norm, nn.BatchNorm1d)
        h = h @ linear.weight.detach().double().numpy().T
        h = np.maximum((h - h.mean(0)) / np.sqrt(h.var(0) + norm.eps), 0)
    np.testing.assert_allclose(tower(x).detach(), h, rtol=1e-3, atol=1e-4)


def test_a_linear_last_layer_is_the_product_alone() -> None:
    torch.manual_seed(0)
    tower = Tower(5, (7, 3), rectified=False).train()
    x = torch.randn(64, 5)
    hidden, out = tower.every(x)
    last = tower.layers[-1]
    assert isinstance(last, nn.Linear)
    assert len(tower.layers) == 4
    torch.testing.assert_close(out, hidden @ last.weight.T + last.bias)
    assert (out < 0).any()
    assert Tower(5, (3,), rectified=False)(x).shape == out.shape


def test_leading_dimensions_are_rows() -> None:
    tower = Tower(4, (6, 2)).train()
    assert tower.width == 2
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(tower(x), tower(x.view(15, 4)).view(5, 3, 2))


def test_rows_do_not_depend_on_each_other_in_evaluation() -> None:
    tower = Tower(4, (6, 2)).eval()
    x = torch.randn(9, 4)
    torch.testing.assert_close(tower(x)[[3]], tower(x[[3]]))


def test_the_input_is_left_alone_and_gradients_reach_all_but_the_biases() -> None:
    """BatchNorm takes a linear layer's bias away again; its own shift is the bias that counts."""
    torch.manual_seed(0)
    tower = Tower(4, (6, 2)).train()
    x = torch.randn(9, 4)
    kept = x.clone()
    tower(x).square().sum().backward()
    assert torch.equal(x, kept)
    for layer in tower.layers:
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None
            cancelled = isinstance(layer, nn.Linear) and name == "bias"
            assert (parameter.grad.abs().max() < 1e-4) == cancelled


def test_every_layer_is_handed_out() -> None:
    torch.manual_seed(0)
    tower = Tower(5, (7, 4, 3)).eval()
    x = torch.randn(2, 6, 5)
    layers = tower.every(x)
    assert [tuple(h.shape) for h in layers] == [(2, 6, 7), (2, 6, 4), (2, 6, 3)]
    rest = x.flatten(0, 1)
    for place, h in enumerate(layers):
        rest = tower.layers[3 * place : 3 * place + 3](rest)
        torch.testing.assert_close(h.flatten(0, 1), rest)
    assert torch.equal(layers[-1], tower(x))
