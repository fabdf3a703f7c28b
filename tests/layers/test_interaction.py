"""The attention unit against a loop over requests, queries and behaviours."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from prerank.batch import History, Ragged
from prerank.layers import blocks
from prerank.layers.dice import DiceLinear
from prerank.layers.interaction import DINUnit
from prerank.layers.pooling import mean_pool

WIDTH = 3
COMPILED = DINUnit._compiled
LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=8)


def unit(hidden: tuple[int, ...] = (5, 4), dtype: torch.dtype = torch.float64, positions: int = 0) -> DINUnit:
    """A unit whose alphas and positions are not zero and whose running statistics have been moved."""
    torch.manual_seed(1)
    made = DINUnit(WIDTH, hidden, positions).to(dtype)
    if made.positions is not None:
        nn.init.normal_(made.positions)
    for layer in made.rest:
        assert isinstance(layer, DiceLinear)
        nn.init.uniform_(layer.alpha, 0.1, 0.6)
        nn.init.uniform_(layer.running_mean, -0.5, 0.5)
        nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return made


def history(lengths: list[int], seed: int = 0, dtype: torch.dtype = torch.float64) -> History:
    """Histories over a table of ten behaviours."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *np.cumsum(lengths).tolist()])
    values = torch.randint(0, 10, (sum(lengths),), generator=generator)
    return History(torch.randn(10, WIDTH, generator=generator, dtype=dtype), Ragged(values, offsets))


def queries(requests: int, count: int, seed: int = 7, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(requests, count, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def lists(past: History) -> list[Tensor]:
    """The (L, D) behaviours of each request."""
    return list(past.table[past.steps.values].split(past.steps.lengths.tolist()))


def twin(made: DINUnit, q: Tensor, past: History, training: bool) -> NDArray[np.float64]:
    """The unit in NumPy: all [q, e, q - e, q * e] through the network, then the sums, one by one.

    The positions are added to the first layer's output, the first of them at a history's last behaviour.
    """

    def array(tensor: Tensor) -> NDArray[np.float64]:
        return tensor.detach().numpy().astype(np.float64)

    pairs = [
        (b, c, array(e), np.concatenate([query, array(e), query - array(e), query * array(e)]), len(steps) - 1 - place)
        for b, steps in enumerate(lists(past))
        for c, query in enumerate(array(q[b]))
        for place, e in enumerate(steps)
    ]
    out = np.zeros(q.shape)
    if not pairs:
        return out
    x = np.stack([pair[3] for pair in pairs]) @ array(made.first.weight).T + array(made.first.bias)
    if made.positions is not None:
        x += array(made.positions)[[min(pair[4], len(made.positions) - 1) for pair in pairs]]
    for layer in made.rest:
        assert isinstance(layer, DiceLinear)
        batch = training and len(x) > 1
        mean, var = (x.mean(0), x.var(0)) if batch else (array(layer.running_mean), array(layer.running_var))
        gate = 1 / (1 + np.exp(-(x - mean) / np.sqrt(var + 1e-8)))
        x = gate * x + (1 - gate) * array(layer.alpha) * x
        x = x @ array(layer.linear.weight).T + array(layer.linear.bias)
    for (b, c, e, _, _), weight in zip(pairs, x[:, 0], strict=True):
        out[b, c] += weight * e
    return out


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 4), st.booleans(), st.integers(1, 200), st.sampled_from([0, 2, 6]))
def test_equals_the_loop(lengths: list[int], count: int, training: bool, numbers: int, positions: int) -> None:
    """With positions, too, and histories that are longer than these."""
    made, past, q = unit(positions=positions).train(training), history(lengths), queries(len(lengths), count)
    expected = twin(made, q, past, training)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "NUMBERS", numbers)
        np.testing.assert_allclose(made(q, past).detach(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("hidden", [(4,), (3, 2, 2)])
def test_any_depth(hidden: tuple[int, ...], training: bool) -> None:
    made, past, q = unit(hidden).train(training), history([2, 0, 5]), queries(3, 2)
    np.testing.assert_allclose(made(q, past).detach(), twin(made, q, past, training), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("numbers", [20, 10**9])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("positions", [0, 2])
def test_gradients_equal_finite_differences(
    training: bool, numbers: int, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "NUMBERS", numbers)
    made, past = unit((3, 2), positions=positions).train(training), history([3, 0, 1, 2])
    names = [name for name, _ in made.named_parameters()]

    def function(q: Tensor, table: Tensor, *parameters: Tensor) -> Tensor:
        values = dict(zip(names, parameters, strict=True))
        out: Tensor = torch.func.functional_call(made, values, (q, History(table, past.steps)))
        return out

    inputs = (queries(4, 2).requires_grad_(), past.table.requires_grad_(), *made.parameters())
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing_but_rounding(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, gradients and statistics of many blocks on several threads against one block."""
    past, q = history([6, 0, 3, 5, 1, 4]), queries(6, 2)

    def results() -> list[Tensor]:
        made, table, own = unit(positions=4).train(), past.table.clone().requires_grad_(), q.clone().requires_grad_()
        out = made(own, History(table, past.steps))
        gradients = torch.autograd.grad(out.square().sum(), [table, own, *made.parameters()])
        return [out, *gradients, *made.buffers()]

    expected = results()
    monkeypatch.setattr(blocks, "NUMBERS", 20)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for one, two in zip(results(), expected, strict=True):
            torch.testing.assert_close(one, two)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("positions", [0, 20])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("hidden", [(64, 16), (7,), (24, 40, 5)])
def test_compiled_is_as_exact(
    hidden: tuple[int, ...], training: bool, positions: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values, gradients and statistics in float32 against float64, which PyTorch's operations compute."""
    torch.manual_seed(3)
    past, q = history([40, 0, 1, 50, 7, 0]), queries(6, 3)
    weights = torch.randn(6, 3, WIDTH, dtype=torch.float64)
    used = []

    def compiled(*given: Any) -> Tensor:
        used.append(given)
        return COMPILED(*given)

    monkeypatch.setattr(DINUnit, "_compiled", compiled)

    def results(dtype: torch.dtype) -> list[Tensor]:
        made = unit(hidden, positions=positions).to(dtype).train(training)
        table, own = past.table.to(dtype).requires_grad_(), q.to(dtype).requires_grad_()
        out = made(own, History(table, past.steps))
        gradients = torch.autograd.grad((out * weights.to(dtype)).sum(), [table, own, *made.parameters()])
        return [out, *gradients, *made.buffers()]

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        exact = results(torch.float64)
        assert not used
        for one, two in zip(results(torch.float32), exact, strict=True):
            torch.testing.assert_close(one.double(), two, rtol=1e-4, atol=3e-5 * float(two.detach().abs().max()))
        assert used
    finally:
        torch.set_num_threads(before)


def test_float32_is_as_exact_as_the_direct_formula() -> None:
    """Against the direct network in float32: the split and the blocks add no error of note."""
    made, past, q = unit((64, 16)), history([40, 0, 50, 7]), queries(4, 2)
    exact = made(q, past)
    single = copy.deepcopy(made).float()
    out = single(q.float(), History(past.table.float(), past.steps))
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.detach().abs().max()))


@settings(deadline=None)
@given(LENGTHS, st.integers(0, 100))
def test_a_result_depends_on_its_own_request_only(lengths: list[int], seed: int) -> None:
    made, past, q = unit().eval(), history(lengths, seed), queries(len(lengths), 3, seed)
    together = made(q, past)
    for request in range(len(lengths)):
        own = torch.tensor([request])
        alone = made(q[own], History(past.table, past.steps.take(own)))
        torch.testing.assert_close(alone, together[own])
        torch.testing.assert_close(
            made(q[own][:, [2]], History(past.table, past.steps.take(own))), together[own][:, [2]]
        )


@settings(deadline=None)
@given(LENGTHS, st.randoms(use_true_random=False))
def test_the_order_of_requests_does_not_matter(lengths: list[int], random: Random) -> None:
    made, past, q = unit().train(), history(lengths), queries(len(lengths), 2)
    places = list(range(len(lengths)))
    random.shuffle(places)
    order = torch.tensor(places)
    moved = made(q[order], History(past.table, past.steps.take(order)))
    torch.testing.assert_close(moved, made(q, past)[order])


def test_statistics_are_those_of_real_positions_only() -> None:
    """Empty histories and unused behaviours, which padding would be, change neither result nor statistics."""
    past, q = history([3, 4]), queries(2, 2)
    bare = unit().train()
    expected = bare(q, past)
    offsets = torch.tensor([0, 0, 3, 3, 7, 7])
    table = torch.cat([past.table, torch.full((5, WIDTH), 1e6, dtype=torch.float64)]).requires_grad_()
    padded = unit().train()
    out = padded(
        queries(5, 2, seed=9).index_copy(0, torch.tensor([1, 3]), q), History(table, Ragged(past.steps.values, offsets))
    )
    torch.testing.assert_close(out[[1, 3]], expected)
    assert not out[[0, 2, 4]].any()
    for (name, one), two in zip(bare.named_buffers(), padded.buffers(), strict=True):
        torch.testing.assert_close(one, two, msg=name)
    out.sum().backward()
    assert table.grad is not None
    unused = torch.ones(len(table), dtype=torch.bool).index_fill(0, past.steps.values, False)
    assert unused.sum() >= 5
    assert not table.grad[unused].any()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", [[0, 0, 0], [0, 1, 0], []])
def test_hardly_any_history(lengths: list[int], training: bool) -> None:
    made, past = unit().train(training), history(lengths)
    q = queries(len(lengths), 1).requires_grad_()
    before = {name: buffer.clone() for name, buffer in made.named_buffers()}
    out = made(q, past)
    np.testing.assert_allclose(out.detach(), twin(made, q, past, training), atol=1e-12)
    out.sum().backward()
    assert q.grad is not None and q.grad.isfinite().all()
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert all(torch.equal(before[name], buffer) for name, buffer in made.named_buffers())


def test_constant_weights_pool_the_mean() -> None:
    made, past = unit(), history([4, 4, 4])
    last = made.rest[-1]
    assert isinstance(last, DiceLinear)
    nn.init.zeros_(last.linear.weight)
    nn.init.constant_(last.linear.bias, 1 / 4)
    out = made(queries(3, 2), past)
    torch.testing.assert_close(out, mean_pool(past).unsqueeze(1).expand(-1, 2, -1))


def test_hand_arithmetic() -> None:
    """One step, width 1, one hidden unit, alpha 1 (so Dice is the identity): the pooled value by hand."""
    made = DINUnit(1, (1,)).double().eval()
    layer = made.rest[0]
    assert isinstance(layer, DiceLinear)
    with torch.no_grad():
        made.first.weight.copy_(torch.tensor([[2.0, 3.0, 5.0, 7.0]]))
        made.first.bias.fill_(11.0)
        layer.alpha.fill_(1.0)
        layer.linear.weight.fill_(0.5)
        layer.linear.bias.fill_(-1.0)
    past = History(torch.tensor([[4.0]], dtype=torch.float64), Ragged(torch.tensor([0]), torch.tensor([0, 1])))
    hidden = 2 * 3 + 3 * 4 + 5 * (3 - 4) + 7 * 3 * 4 + 11
    assert made(torch.tensor([[[3.0]]], dtype=torch.float64), past).item() == pytest.approx((0.5 * hidden - 1) * 4)


def test_autocast_and_half_tables_leave_the_precision_of_the_parameters() -> None:
    made, past, q = unit(dtype=torch.float32), history([3, 2], dtype=torch.float32), queries(2, 2, dtype=torch.float32)
    half = History(past.table.bfloat16(), past.steps)
    expected = copy.deepcopy(made)(q.bfloat16().float(), History(half.table.float(), past.steps))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = made(q.bfloat16(), half)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in made.parameters())


def test_positions_start_as_the_published_unit() -> None:
    torch.manual_seed(2)
    bare = DINUnit(WIDTH, (5, 4))
    torch.manual_seed(2)
    made = DINUnit(WIDTH, (5, 4), positions=6)
    past, q = history([3, 1], dtype=torch.float32), queries(2, 2, dtype=torch.float32)
    assert torch.equal(made(q, past), bare(q, past))


@pytest.mark.parametrize("positions", [0, 5])
def test_serving_shape_equals_evaluation_shape(positions: int) -> None:
    """One request with all queries, as served, against a batch of the same pairs, as evaluated."""
    made, past = unit(dtype=torch.float32, positions=positions).eval(), history([5, 3], dtype=torch.float32)
    group = queries(1, 16, dtype=torch.float32)
    batch = made(group.expand(2, -1, -1), past)
    for request in range(2):
        own = History(past.table, past.steps.take(torch.tensor([request])))
        torch.testing.assert_close(made(group, own), batch[[request]], rtol=1e-5, atol=1e-6)


def test_the_split_equals_the_concatenation() -> None:
    """The first layer alone: weights that pass it on must see W [q, e, q - e, q * e] + b."""
    made = unit((1,)).eval()
    layer = made.rest[0]
    assert isinstance(layer, DiceLinear)
    nn.init.ones_(layer.alpha)
    nn.init.ones_(layer.linear.weight)
    nn.init.zeros_(layer.linear.bias)
    past, q = history([1]), queries(1, 1)
    e = lists(past)[0]
    features = torch.cat([q[0], e, q[0] - e, q[0] * e], dim=-1)
    weight = F.linear(features, made.first.weight, made.first.bias)
    torch.testing.assert_close(made(q, past)[0], weight * e)
