"""Each interaction unit against a loop in NumPy, and what all units promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.layers.histories import history, lists, normal
from tests.layers.test_gru import twin as gru_twin
from torch import Tensor, nn

from prerank.batch import History, Ragged
from prerank.layers.co_action import CoActionUnit
from prerank.layers.dien import DIENUnit, NextBehaviour
from prerank.layers.field_unit import FieldUnit
from prerank.layers.packing import pack
from prerank.layers.unit import AttentionUnit, InteractionUnit

Array = NDArray[np.float64]
FIELDS, PROFILE, EMBEDDING = 2, 3, 2
WIDTH = FIELDS * EMBEDDING
LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=6)
UNITS: dict[str, Callable[[], InteractionUnit]] = {
    "din": lambda: AttentionUnit(WIDTH, (5, 4)),
    "dien": lambda: DIENUnit(WIDTH, "paper", 1.0),
    "dien code": lambda: DIENUnit(WIDTH, "code", 0.0),
    "fm": lambda: FieldUnit(FIELDS, PROFILE, EMBEDDING, ()),
    "deepfm": lambda: FieldUnit(FIELDS, PROFILE, EMBEDDING, (5, 4)),
    "can": lambda: CoActionUnit(FIELDS, PROFILE, EMBEDDING, (3, 2, 4)),
}


def unit(name: str) -> InteractionUnit:
    torch.manual_seed(1)
    return UNITS[name]().double().eval()


def array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().numpy(), dtype=np.float64)


def dien_twin(made: DIENUnit, query: Array, past: Array, profile: Array) -> Array:
    """Interests, softmax over their products with W q, and the AUGRU."""
    del profile
    if not len(past):
        return np.zeros(WIDTH)
    interests = np.stack([gru_twin(made.extractor, past[: stop + 1], np.ones(stop + 1)) for stop in range(len(past))])
    scores = interests @ array(made.attention.weight) @ query
    attention = np.exp(scores) / np.exp(scores).sum()
    return gru_twin(made.evolution, interests, attention)


def field_twin(made: FieldUnit, query: Array, past: Array, profile: Array) -> Array:
    """All pairs of fields one by one, and the network on their concatenation."""
    pooled = past.mean(0) if len(past) else np.zeros(WIDTH)
    fields = [*query.reshape(FIELDS, -1), *pooled.reshape(FIELDS, -1), *profile]
    pairs = sum(fields[i] * fields[j] for i in range(len(fields)) for j in range(i))
    if made.of_query is None or made.of_user is None:
        return np.asarray(pairs)
    x = np.concatenate([query, pooled, profile.ravel()])
    weight = np.concatenate([array(made.of_query.weight), array(made.of_user.weight)], axis=1)
    x = np.maximum(weight @ x + array(made.of_user.bias), 0)
    for layer in made.rest:
        assert isinstance(layer, nn.Linear)
        x = np.maximum(array(layer.weight) @ x + array(layer.bias), 0)
    return np.concatenate([np.asarray(pairs), x])


def can_twin(made: CoActionUnit, query: Array, past: Array, profile: Array) -> Array:
    """Every input through its field's micro-network, one by one."""
    weights = (array(made.project.weight) @ query + array(made.project.bias)).reshape(FIELDS + PROFILE, -1)
    fields = [*past.reshape(-1, FIELDS, EMBEDDING).transpose(1, 0, 2), *profile[:, None]]
    return np.concatenate([outputs for own, rows in zip(weights, fields, strict=True) for outputs in micro(own, rows)])


def micro(weights: Array, rows: Array) -> Iterator[Array]:
    """The outputs of a micro-network for the powers of a field's rows, summed over the rows."""
    for order in (1, 2, 3):
        inputs, start, h = EMBEDDING, 0, rows**order
        for depth, outputs in enumerate((3, 2, 4)):
            h = h @ weights[start : start + inputs * outputs].reshape(inputs, outputs)
            h = h if depth == 2 else np.tanh(h)
            start, inputs = start + inputs * outputs, outputs
            yield h.sum(0)


TWINS: dict[str, Callable[..., Array]] = {
    "dien": dien_twin,
    "dien code": dien_twin,
    "fm": field_twin,
    "deepfm": field_twin,
    "can": can_twin,
}


@pytest.mark.parametrize("name", TWINS)
def test_equals_the_loop(name: str) -> None:
    made, past = unit(name), history([3, 0, 5, 1], WIDTH)
    queries, profile = normal(4, 2, WIDTH), normal(4, PROFILE, EMBEDDING, seed=8)
    out = made(queries, past, profile)
    assert out.shape == (4, 2, made.width)
    behaviours = lists(past)
    for request in range(4):
        for query in range(2):
            expected = TWINS[name](
                made, array(queries[request, query]), array(behaviours[request]), array(profile[request])
            )
            np.testing.assert_allclose(array(out[request, query]), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", UNITS)
@settings(deadline=None, max_examples=20)
@given(LENGTHS, st.integers(0, 100))
def test_a_result_depends_on_its_own_request_and_query_only(name: str, lengths: list[int], seed: int) -> None:
    """Longer histories beside it, behaviours that it does not name and other queries change nothing."""
    made, past = unit(name), history(lengths, WIDTH, seed)
    queries, profile = normal(len(lengths), 3, WIDTH, seed=seed), normal(len(lengths), PROFILE, EMBEDDING)
    together = made(queries, past, profile)
    wider = torch.cat([past.table, torch.full((2, WIDTH), 1e9, dtype=torch.float64)])
    for request in range(len(lengths)):
        own = torch.tensor([request])
        alone = made(queries[own][:, [2]], History(wider, past.steps.take(own)), profile[own])
        torch.testing.assert_close(alone, together[own][:, [2]])


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("lengths", [[0, 0], []])
def test_hardly_any_history(name: str, lengths: list[int]) -> None:
    made, requests = unit(name).train(), len(lengths)
    queries, profile = normal(requests, 2, WIDTH).requires_grad_(), normal(requests, PROFILE, EMBEDDING)
    out, losses = made.relaxed(queries, history(lengths, WIDTH), profile)
    assert out.shape == (requests, 2, made.width)
    assert out.isfinite().all()
    if "d" in name and "fm" not in name:  # attention over nothing
        assert not out.any()
    (out.sum() + sum(losses.values(), torch.zeros(()))).backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in made.parameters())


@pytest.mark.parametrize("name", UNITS)
def test_autocast_and_half_tables_leave_the_precision_of_the_parameters(name: str) -> None:
    made, past = unit(name).float(), history([3, 2], WIDTH)
    queries, profile = normal(2, 2, WIDTH).bfloat16(), normal(2, PROFILE, EMBEDDING).float()
    half = History(past.table.bfloat16(), past.steps)
    expected = made(queries.float(), History(half.table.float(), past.steps), profile)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = made(queries, half, profile)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected)


def test_fm_by_hand() -> None:
    """Fields 2 and 3 of the query, 5 of the history's mean, 7 of the profile: their pairs, by hand."""
    made = FieldUnit(1, 1, 1, ())
    past = History(torch.tensor([[4.0], [6.0]]), Ragged(torch.tensor([0, 1]), torch.tensor([0, 2])))
    out = made(torch.tensor([[[2.0], [3.0]]]), past, torch.tensor([[[7.0]]]))
    assert out.flatten().tolist() == [2 * 5 + 2 * 7 + 5 * 7, 3 * 5 + 3 * 7 + 5 * 7]


def test_auxiliary_loss_equals_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step but the last of a history asks for the next behaviour, against one other behaviour."""
    torch.manual_seed(3)
    made, past = NextBehaviour(WIDTH).double(), history([3, 0, 1, 4], WIDTH)
    packing = pack(past.steps)
    interests = normal(8, WIDTH, seed=5)
    monkeypatch.setattr(torch, "randint", lambda *arguments, device: torch.full(arguments[2], 4, device=device))
    rows = past.steps.values[packing.places]
    loss = made(interests, past.table, rows, packing)

    def scaled(x: Tensor, of: Tensor) -> Tensor:
        return (x - of.mean(0)) / (of.var(0, correction=0) + 1e-5).sqrt()

    def probability(h: Tensor, e: Tensor) -> Tensor:
        h, e = scaled(h, interests), scaled(e, past.table)
        first = torch.sigmoid(made.of_interest(h) + made.of_behaviour(e))
        return torch.sigmoid(made.rest[1:](first))

    terms = []
    for rank in range(3):
        own = torch.nonzero(packing.ranks == rank).flatten()
        for now, then in pairwise(own):
            right = probability(interests[now], past.table[rows[then]])
            wrong = probability(interests[now], past.table[(rows[then] + 4) % 10])
            terms.append(-right.log() - (1 - wrong).log())
    assert len(terms) == 5
    torch.testing.assert_close(loss, torch.cat(terms).mean())


def test_auxiliary_negatives_are_other_behaviours_of_the_batch() -> None:
    """With two behaviours the negative is always the other one, so a network that knows them loses nothing."""
    made = NextBehaviour(1)
    for linear in (made.of_interest, made.of_behaviour, made.rest[1], made.rest[3]):
        for parameter in linear.parameters():
            nn.init.zeros_(parameter)
    with torch.no_grad():
        made.of_behaviour.weight[0] = 50.0
        last = made.rest[3]
        assert isinstance(made.rest[1], nn.Linear)
        assert isinstance(last, nn.Linear)
        made.rest[1].weight[0, 0], made.rest[1].bias[0] = 100.0, -50.0
        last.weight[0, 0], last.bias[0] = 100.0, -50.0
    table, steps = torch.tensor([[-1.0], [1.0]]), Ragged(torch.ones(40, dtype=torch.int64), torch.tensor([0, 40]))
    packing = pack(steps)
    assert made(torch.zeros(40, 1), table, steps.values, packing).item() < 1e-6
    assert made(torch.zeros(40, 1), table, torch.zeros(40, dtype=torch.int64), packing).item() > 50
    assert made(torch.zeros(40, 1), table[:1], torch.zeros(40, dtype=torch.int64), packing).item() == 0


def test_auxiliary_loss_finds_what_comes_next() -> None:
    """Behaviours follow each other in a circle, from a random one on: there is nothing to guess."""
    torch.manual_seed(0)
    requests, length, width, circle = 16, 6, 8, 12
    made = DIENUnit(width, "paper", 1.0)
    table = nn.Parameter(torch.randn(circle, width) * 1e-4)
    optimiser = torch.optim.Adam([table, *made.parameters()], lr=2e-3)
    offsets, query, profile = (
        torch.arange(requests + 1) * length,
        torch.zeros(requests, 1, width),
        torch.zeros(requests, 0),
    )
    losses = []
    for _ in range(400):
        rows = (torch.randint(circle, (requests, 1)) + torch.arange(length)) % circle
        _, named = made.relaxed(query, History(table, Ragged(rows.flatten(), offsets)), profile)
        losses.append(named["next_behaviour"])
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[0].item() == pytest.approx(2 * np.log(2), abs=0.1)
    assert torch.stack(losses[-20:]).mean() < 0.2


def test_auxiliary_loss_is_weighted_in_training_only() -> None:
    torch.manual_seed(4)
    single, double = DIENUnit(WIDTH, "paper", 1.0).double(), DIENUnit(WIDTH, "paper", 2.0).double()
    double.load_state_dict(single.state_dict())
    arguments = normal(2, 1, WIDTH), history([4, 3], WIDTH), normal(2, PROFILE, EMBEDDING)
    losses = []
    for made in (single, double):
        torch.manual_seed(5)
        out, named = made.relaxed(*arguments)
        torch.testing.assert_close(out, made(*arguments))
        losses.append(named["next_behaviour"])
    torch.testing.assert_close(losses[1], 2 * losses[0])
    assert losses[0] > 0
    before = torch.get_rng_state()
    assert not single.eval().relaxed(*arguments)[1]
    assert torch.equal(torch.get_rng_state(), before)
