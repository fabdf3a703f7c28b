"""Field weights against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prerank.layers.squeeze import LightSE, SENet

FIELDS, WIDTH = 5, 4


def embedded() -> torch.Tensor:
    return torch.randn(6, FIELDS * WIDTH, generator=torch.Generator().manual_seed(1))


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


@pytest.mark.parametrize("compatible", [False, True])
def test_light_se_equals_numpy(compatible: bool) -> None:
    torch.manual_seed(0)
    layer, x = LightSE(FIELDS, compatible=compatible), embedded()
    e = x.numpy().reshape(6, FIELDS, WIDTH)
    z = np.array([[field.mean() for field in row] for row in e])
    raw = z @ array(layer.excite.weight).T + (0 if compatible else array(layer.excite.bias))
    k = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    expected = (e * (k + compatible)[:, :, None]).reshape(6, -1)
    np.testing.assert_allclose(array(layer(x)), expected, rtol=1e-5, atol=1e-6)
    assert (layer.excite.bias is None) == compatible
    assert k.std() > 0.01  # the weights do differ


def test_senet_equals_numpy() -> None:
    torch.manual_seed(0)
    layer, x = SENet(FIELDS), embedded()
    e = x.numpy().reshape(6, FIELDS, WIDTH)
    w1, b1, w2, b2 = (array(p) for p in layer.parameters())
    assert w1.shape == (FIELDS // 2, FIELDS)
    raw = np.maximum(e.mean(axis=2) @ w1.T + b1, 0) @ w2.T + b2
    expected = (e / (1 + np.exp(-raw))[:, :, None]).reshape(6, -1)
    np.testing.assert_allclose(array(layer(x)), expected, rtol=1e-5, atol=1e-6)
