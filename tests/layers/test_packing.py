"""The order of a recurrence against a loop over steps and histories."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prerank.batch import Ragged
from prerank.layers.packing import pack


def ragged(lengths: list[int]) -> Ragged:
    return Ragged(torch.arange(sum(lengths)) + 100, torch.tensor([0, *lengths]).cumsum(0))


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), max_size=8))
def test_equals_the_loop(lengths: list[int]) -> None:
    steps = ragged(lengths)
    packing = pack(steps)
    by_length = sorted(range(len(lengths)), key=lambda history: -lengths[history])
    expected = [
        (step, rank) for step in range(max(lengths, default=0)) for rank, h in enumerate(by_length) if step < lengths[h]
    ]
    assert packing.order.tolist() == by_length
    assert packing.sizes == [sum(n > step for n in lengths) for step in range(max(lengths, default=0))]
    assert packing.ranks.tolist() == [rank for _, rank in expected]
    starts = steps.offsets.tolist()
    assert packing.places.tolist() == [starts[by_length[rank]] + step for step, rank in expected]
    assert packing.before.tolist() == [expected.index((step - 1, rank)) for step, rank in expected if step]
    ends = [(lengths[h] - 1, rank) for rank, h in enumerate(by_length) if lengths[h]]
    assert packing.last.tolist() == [expected.index(end) for end in ends]


def test_unpacking_puts_each_history_back() -> None:
    packing = pack(ragged([2, 0, 3]))
    assert packing.unpack(torch.tensor([[7.0], [5.0]])).tolist() == [[5.0], [0.0], [7.0]]
