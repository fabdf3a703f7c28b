"""DIN's attention, Dice and the AUGRU against DeepCTR-Torch, with weights copied, in evaluation.

Three things of deepctr-torch 0.3.0 to know: its Dice has an affine BatchNorm, here left at the identity; in training
that BatchNorm counts padding; its AUGRUCell registers one bias under both names, so both of ours are set to it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from prerank.batch import History, Ragged
from prerank.layers.dice import DiceLinear
from prerank.layers.dien import DIENUnit
from prerank.layers.gru import GRU
from prerank.layers.interaction import DINUnit
from prerank.layers.packing import pack

activation: Any = pytest.importorskip("deepctr_torch.layers.activation", reason="run by make oracles")
sequence: Any = pytest.importorskip("deepctr_torch.layers.sequence")

WIDTH, LENGTHS = 6, [4, 1, 7, 3]


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(8)


def history() -> tuple[History, Tensor]:
    """Histories as ours reads them and as (B, L, D) with padding of the oracle."""
    steps = Ragged(torch.randint(0, 9, (sum(LENGTHS),)), torch.tensor([0, *LENGTHS]).cumsum(0))
    table = torch.randn(9, WIDTH)
    return History(table, steps), pad_sequence(table[steps.values].split(LENGTHS), batch_first=True)


def copy_linear(ours: nn.Linear, theirs: nn.Linear) -> None:
    ours.load_state_dict(theirs.state_dict())


def copy_dice(ours: DiceLinear, dice: Any, linear: nn.Linear) -> None:
    """Statistics and alphas, all drawn first so that none is at its default."""
    for tensor, low, high in ((dice.alpha, 0.1, 0.9), (dice.bn.running_mean, -0.5, 0.5), (dice.bn.running_var, 0.5, 2)):
        nn.init.uniform_(tensor, low, high)
    with torch.no_grad():
        ours.alpha.copy_(dice.alpha.flatten())
    ours.running_mean.copy_(dice.bn.running_mean)
    ours.running_var.copy_(dice.bn.running_var)
    copy_linear(ours.linear, linear)


def copy_gru(ours: GRU, theirs: Any, sign: Tensor) -> None:
    with torch.no_grad():
        for layer, name in ((ours.input, "ih"), (ours.state, "hh")):
            suffix = "_l0" if isinstance(theirs, nn.GRU) else ""
            layer.weight.copy_(getattr(theirs, f"weight_{name}{suffix}") * sign.unsqueeze(1))
            layer.bias.copy_(getattr(theirs, f"bias_{name}{suffix}") * sign)


def test_dice() -> None:
    dice, linear = activation.Dice(WIDTH, dim=2).eval(), nn.Linear(WIDTH, 3)
    ours = DiceLinear(WIDTH, 3).eval()
    copy_dice(ours, dice, linear)
    x = torch.randn(20, WIDTH)
    close(ours(x), linear(dice(x)))


def test_attention() -> None:
    theirs = sequence.AttentionSequencePoolingLayer((8, 5), "dice", embedding_dim=WIDTH).eval()
    ours = DINUnit(WIDTH, (8, 5)).eval()
    network = theirs.local_att
    linears = [*network.dnn.linears, network.dense]
    for linear in linears:  # drawn anew: deepctr draws them from N(0, 1e-4 ** 2)
        linear.reset_parameters()
    copy_linear(ours.first, linears[0])
    for layer, dice, linear in zip(ours.rest, network.dnn.activation_layers, linears[1:], strict=True):
        assert isinstance(layer, DiceLinear)
        copy_dice(layer, dice, linear)
    past, padded = history()
    queries = torch.randn(len(LENGTHS), 2, WIDTH)
    out = ours(queries, past)
    assert out.abs().mean() > 0.1
    for query in range(2):
        pooled = theirs(queries[:, [query]], padded, torch.tensor(LENGTHS).unsqueeze(1))
        close(out[:, [query]], pooled)


def test_augru() -> None:
    theirs = sequence.DynamicGRU(WIDTH, WIDTH, gru_type="AUGRU")
    for parameter in theirs.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)
    ours = GRU(WIDTH, WIDTH)
    copy_gru(ours, theirs.rnn, torch.ones(3 * WIDTH))
    past, padded = history()
    attention = torch.rand(len(LENGTHS), max(LENGTHS), 1)
    packed = [
        pack_padded_sequence(values, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
        for values in (padded, attention)
    ]
    expected, _ = pad_packed_sequence(theirs(*packed), batch_first=True)
    packing = pack(past.steps)
    states = ours(packed[0].data, packing, packed[1].data)[:, 0]
    for rank, request in enumerate(packing.order.tolist()):
        close(states[packing.ranks == rank], expected[request, : LENGTHS[request]])


def test_the_whole_unit_of_dien() -> None:
    """Extractor, attention by a product, AUGRU: from the same parts of PyTorch and DeepCTR-Torch."""
    unit = DIENUnit(WIDTH, "paper", 0.0)
    extractor, evolution = nn.GRU(WIDTH, WIDTH, batch_first=True), sequence.DynamicGRU(WIDTH, WIDTH, gru_type="AUGRU")
    for parameter in (*extractor.parameters(), *evolution.parameters()):
        nn.init.uniform_(parameter, -0.7, 0.7)
    # PyTorch's update gate is the weight of the old state, ours and the paper's that of the candidate.
    copy_gru(unit.extractor, extractor, torch.tensor([1.0, -1.0, 1.0]).repeat_interleave(WIDTH))
    copy_gru(unit.evolution, evolution.rnn, torch.ones(3 * WIDTH))
    past, _ = history()
    query = torch.randn(len(LENGTHS), 1, WIDTH)
    out = unit(query, past, torch.zeros(len(LENGTHS), 0, WIDTH))
    for request, behaviours in enumerate(past.table[past.steps.values].split(LENGTHS)):
        interests = extractor(behaviours)[0]
        scores = torch.softmax(interests @ unit.attention.weight @ query[request, 0], dim=0)
        packed = [
            pack_padded_sequence(values.unsqueeze(0), torch.tensor([len(behaviours)]), batch_first=True)
            for values in (interests, scores.unsqueeze(1))
        ]
        close(out[request, 0], evolution(*packed).data[-1])
