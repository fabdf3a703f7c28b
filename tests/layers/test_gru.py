"""The recurrence against PyTorch's GRU, a loop in NumPy and finite differences."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.layers.histories import history, lists, normal
from torch import Tensor, nn

from prerank.layers.gru import GRU, Update
from prerank.layers.packing import Packing, pack

LENGTHS = [2, 0, 4, 1, 4]
WIDTH, STATE = 2, 3


def made(update: Update = "paper") -> GRU:
    torch.manual_seed(2)
    return GRU(WIDTH, STATE, update).double()


def steps() -> tuple[Tensor, Packing]:
    past = history(LENGTHS, WIDTH)
    packing = pack(past.steps)
    return past.table[past.steps.values][packing.places], packing


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-x)))


def twin(gru: GRU, xs: NDArray[np.float64], attention: NDArray[np.float64]) -> NDArray[np.float64]:
    """One history and one query, written out as DIEN prints it: the last state."""
    width = gru.state.in_features
    w, u = (layer.weight.detach().numpy().reshape(3, width, -1) for layer in (gru.input, gru.state))
    b, d = (layer.bias.detach().numpy().reshape(3, width) for layer in (gru.input, gru.state))
    h = np.zeros(width)
    for x, a in zip(xs, attention, strict=True):
        r, z = (sigmoid(w[gate] @ x + b[gate] + u[gate] @ h + d[gate]) for gate in (0, 1))
        c = np.tanh(w[2] @ x + b[2] + r * (u[2] @ h + d[2]))
        if gru.update == "paper":
            h = (1 - a * z) * h + a * z * c
        else:
            kept = (1 - a) * (1 - z)  # the code's gate is the weight of the old state
            h = kept * h + (1 - kept) * c
    return h


def test_without_attention_it_is_the_gru_of_pytorch() -> None:
    """Whose update gate is the weight of the old state, so that part of the parameters has the other sign."""
    gru, oracle = made(), nn.GRU(WIDTH, STATE).double()
    sign = torch.tensor([1.0, -1.0, 1.0]).repeat_interleave(STATE).double()
    with torch.no_grad():
        for name, layer in (("ih", gru.input), ("hh", gru.state)):
            oracle.get_parameter(f"weight_{name}_l0").copy_(layer.weight * sign.unsqueeze(1))
            oracle.get_parameter(f"bias_{name}_l0").copy_(layer.bias * sign)
    x, packing = steps()
    states = gru(x, packing).squeeze(1)
    for rank, request in enumerate(packing.filled.tolist()):
        expected = oracle(lists(history(LENGTHS, WIDTH))[request].unsqueeze(1))[0].squeeze(1)
        torch.testing.assert_close(states[packing.ranks == rank], expected)


@pytest.mark.parametrize("update", get_args(Update))
def test_with_attention_it_equals_the_loop(update: Update) -> None:
    gru, (x, packing) = made(update), steps()
    attention = normal(len(x), 2).sigmoid()
    last = packing.unpack(gru(x, packing, attention)[packing.last]).detach().numpy()
    for rank, request in enumerate(packing.order.tolist()):
        rows = packing.ranks == rank
        for query in range(2):
            expected = twin(gru, x[rows].numpy(), attention[rows, query].numpy())
            np.testing.assert_allclose(last[request, query], expected, atol=1e-12)


def test_no_attention_leaves_the_state_in_the_paper_and_is_a_plain_step_in_the_code() -> None:
    x, packing = steps()
    nothing, all_of_it = torch.zeros(len(x), 1).double(), torch.ones(len(x), 1).double()
    assert not made("paper")(x, packing, nothing).any()
    plain = made()(x, packing)
    torch.testing.assert_close(made("paper")(x, packing, all_of_it), plain)
    torch.testing.assert_close(made("code")(x, packing, nothing), plain)


def test_hand_arithmetic() -> None:
    """Two steps of width 1 with gates of one half: c = tanh(x), h = a / 2 * c, and so on."""
    gru = GRU(1, 1).double()
    for parameter in gru.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        gru.input.weight[2] = 1.0
    packing = pack(history([2], 1).steps)
    states = gru(torch.tensor([[1.0], [2.0]]).double(), packing, torch.tensor([[1.0], [0.5]]).double())
    first = 0.5 * math.tanh(1)
    second = 0.75 * first + 0.25 * math.tanh(2)
    torch.testing.assert_close(states.flatten(), torch.tensor([first, second]).double())


@pytest.mark.parametrize("update", get_args(Update))
@pytest.mark.parametrize("queries", [0, 2])
def test_gradients_equal_finite_differences(update: Update, queries: int) -> None:
    gru, (x, packing) = made(update), steps()
    names = [name for name, _ in gru.named_parameters()]

    def function(x: Tensor, attention: Tensor, *parameters: Tensor) -> Tensor:
        values = dict(zip(names, parameters, strict=True))
        out: Tensor = torch.func.functional_call(gru, values, (x, packing, attention if queries else None))
        return out

    attention = normal(len(x), queries).sigmoid().requires_grad_(bool(queries))
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), attention, *gru.parameters()))


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_nothing_to_read(lengths: list[int]) -> None:
    gru, packing = made(), pack(history(lengths, WIDTH).steps)
    out = gru(torch.zeros(0, WIDTH).double(), packing)
    assert out.shape == (0, 1, STATE)
    out.sum().backward()
    assert packing.unpack(out[packing.last]).shape == (len(lengths), 1, STATE)
