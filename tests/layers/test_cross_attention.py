"""Gated cross-attention against a NumPy loop."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from prerank.layers.cross_attention import GatedCrossAttention

P = 4


def test_equals_the_loop_and_broadcasts() -> None:
    torch.manual_seed(0)
    layer = GatedCrossAttention(P)
    own, other = torch.randn(1, 3, P), torch.randn(5, 2, P)
    wq, wk, wv, wg, bias = (p.detach().numpy() for p in layer.parameters())
    out = layer(own, other).detach().numpy()
    assert out.shape == (5, 3, P)
    for candidate in range(5):
        for head in range(3):
            x = own[0, head].numpy()
            similarities = np.array([(wq @ x) @ (wk @ y) / np.sqrt(P) for y in other[candidate].numpy()])
            weights = np.exp(similarities) / np.exp(similarities).sum()
            attended = sum(w * (wv @ y) for w, y in zip(weights, other[candidate].numpy(), strict=True))
            gate = 1 / (1 + np.exp(-(wg @ x + bias)))
            np.testing.assert_allclose(out[candidate, head], x + gate * attended, rtol=1e-5, atol=1e-6)


def test_closed_gates_let_nothing_through() -> None:
    layer = GatedCrossAttention(P)
    nn.init.constant_(layer.gate.bias, -1e4)
    own = torch.randn(5, 3, P)
    assert torch.equal(layer(own, torch.randn(5, 2, P)), own)
