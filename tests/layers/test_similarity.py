"""Late interaction against arithmetic by hand and loops."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prerank.layers.similarity import (
    ConcatScorer,
    Form,
    FullyConnectedScorer,
    LightweightScorer,
    MaxCosine,
    ScaledDot,
    SumMax,
    as_joined,
    head_similarities,
    late_interaction,
    normalised,
    sum_max,
)

SEEDS = st.integers(0, 10_000)
HEADS = st.integers(1, 4)
P = 3


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lightweight(user_heads: int, item_heads: int, width: int = 5) -> LightweightScorer:
    torch.manual_seed(2)
    made = LightweightScorer(user_heads, item_heads, width).double()
    nn.init.constant_(made.project.bias, 0.25)
    return made


def permute(heads: Tensor, order: list[int]) -> Tensor:
    """(..., H * P) with its heads in another order."""
    moved: Tensor = heads.unflatten(-1, (len(order), -1))[..., order, :].flatten(-2)
    return moved


def test_normalised() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]])
    torch.testing.assert_close(normalised(x), torch.tensor([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]]))


@pytest.mark.parametrize(("form", "expected"), [("scaled", 10 * 11.0 + 0.5), ("bias", 11.5), ("printed", 11.0)])
def test_scaled_dot_by_hand(form: Literal["scaled", "bias", "printed"], expected: float) -> None:
    scorer = ScaledDot(form)
    if scorer.bias is not None:
        assert scorer.bias.item() == 0.0
        nn.init.constant_(scorer.bias, 0.5)
    assert scorer(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])).item() == pytest.approx(expected)
    assert len(list(scorer.parameters())) == {"scaled": 2, "bias": 1, "printed": 0}[form]


def test_scale_one_is_the_printed_head_bit_for_bit() -> None:
    user, item = normalised(torch.randn(20, 8)), normalised(torch.randn(20, 8))
    scaled = ScaledDot("scaled")
    nn.init.ones_(scaled.scale)  # type: ignore[arg-type]
    assert torch.equal(scaled(user, item), ScaledDot("printed")(user, item))


@settings(deadline=None)
@given(SEEDS, HEADS, HEADS)
def test_head_similarities_equal_the_loop(seed: int, user_heads: int, item_heads: int) -> None:
    user, item = draw(seed, user_heads * P), draw(seed + 1, item_heads * P)
    out = head_similarities(user, item, user_heads, item_heads)
    for i in range(user_heads):
        for j in range(item_heads):
            expected = sum(float(user[i * P + k] * item[j * P + k]) for k in range(P))
            assert out[i, j].item() == pytest.approx(expected)


def test_sum_max_by_hand() -> None:
    assert sum_max(torch.tensor([[1.0, 5.0, -2.0], [-4.0, -3.0, -9.0]])).item() == 2.0


@settings(deadline=None)
@given(SEEDS, HEADS)
def test_sum_max_with_one_item_head_is_the_dot_with_the_sum_of_user_heads(seed: int, user_heads: int) -> None:
    user, item = draw(seed, 6, user_heads * P), draw(seed + 1, 6, P)
    summed = user.unflatten(-1, (user_heads, P)).sum(-2)
    torch.testing.assert_close(SumMax(user_heads, 1)(user, item), (summed * item).sum(-1))
    assert not list(SumMax(user_heads, 1).parameters())


def test_lightweight_scorer_has_352_parameters_and_a_bias() -> None:
    made = LightweightScorer(2, 2, 16)
    assert sum(parameter.numel() for parameter in made.parameters()) == 352 + 1
    assert made.project.bias.item() == 0.0
    assert made.rows.weight.shape == (16, 2)
    uneven = LightweightScorer(3, 2, 16)
    assert uneven.rows.weight.shape == (16, 2)
    assert uneven.columns.weight.shape == (16, 3)


@settings(deadline=None)
@given(SEEDS, HEADS, HEADS)
def test_lightweight_scorer_equals_the_loop(seed: int, user_heads: int, item_heads: int) -> None:
    made = lightweight(user_heads, item_heads)
    user, item = draw(seed, user_heads * P), draw(seed + 1, item_heads * P)
    s = user.view(user_heads, P).numpy() @ item.view(item_heads, P).numpy().T
    w1, b1, w2, b2 = (p.detach().numpy() for p in (*made.rows.parameters(), *made.columns.parameters()))
    rows = np.array([np.maximum(w1 @ s[i] + b1, 0) for i in range(user_heads)])
    columns = np.array([np.maximum(w2 @ rows[:, j] + b2, 0) for j in range(5)]).T
    logit = made.project.weight.detach().numpy()[0] @ columns.ravel() + 0.25
    assert made(user, item).item() == pytest.approx(logit)


@settings(deadline=None)
@given(SEEDS, st.permutations(range(3)))
def test_permuting_heads_with_the_weights_that_read_them(seed: int, order: list[int]) -> None:
    """User heads with the columns of W2, item heads with the columns of W1: the logit stays."""
    made = lightweight(3, 3)
    user, item = draw(seed, 4, 3 * P), draw(seed + 1, 4, 3 * P)
    expected = made(user, item)
    by_user, by_item = lightweight(3, 3), lightweight(3, 3)
    with torch.no_grad():
        by_user.columns.weight.copy_(made.columns.weight[:, order])
        by_item.rows.weight.copy_(made.rows.weight[:, order])
    torch.testing.assert_close(by_user(permute(user, order), item), expected)
    torch.testing.assert_close(by_item(user, permute(item, order)), expected)


def test_selectors_make_the_lightweight_scorer_a_linear_functional() -> None:
    """W1 and W2 the identity, no biases, S not negative: the logit is <project, S>, row by row."""
    made = LightweightScorer(2, 2, 2).double()
    with torch.no_grad():
        for layer in (made.rows, made.columns):
            layer.weight.copy_(torch.eye(2))
            layer.bias.zero_()
        made.project.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    user = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    item = torch.tensor([2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    assert head_similarities(user, item, 2, 2).tolist() == [[2.0, 4.0], [3.0, 5.0]]
    assert made(user, item).item() == 2.0 + 40.0 + 300.0 + 5000.0


@settings(deadline=None)
@given(SEEDS, HEADS, HEADS)
def test_fully_connected_scorer_equals_the_printed_equation(seed: int, user_heads: int, item_heads: int) -> None:
    torch.manual_seed(3)
    made = FullyConnectedScorer(user_heads, item_heads, 4).double()
    assert made.project.bias.item() == 0.0
    user, item = draw(seed, user_heads * P), draw(seed + 1, item_heads * P)
    s = user.view(user_heads, P).numpy() @ item.view(item_heads, P).numpy().T
    w3, b3, w, b = (p.detach().numpy() for p in (*made.hidden.parameters(), *made.project.parameters()))
    assert made(user, item).item() == pytest.approx((w @ (w3 @ s.ravel() + b3) + b).item())
    zero, twice = made(0 * user, item), made(2 * user, item)
    torch.testing.assert_close(twice - zero, 2 * (made(user, item) - zero))  # linear in S


@settings(deadline=None)
@given(SEEDS, HEADS, HEADS)
def test_mlp_is_the_fully_connected_scorer_with_a_relu(seed: int, user_heads: int, item_heads: int) -> None:
    torch.manual_seed(3)
    made = FullyConnectedScorer(user_heads, item_heads, 5, rectified=True).double()
    user, item = draw(seed, user_heads * P), draw(seed + 1, item_heads * P)
    s = user.view(user_heads, P).numpy() @ item.view(item_heads, P).numpy().T
    w3, b3, w, b = (p.detach().numpy() for p in (*made.hidden.parameters(), *made.project.parameters()))
    assert made(user, item).item() == pytest.approx((w @ np.maximum(w3 @ s.ravel() + b3, 0) + b).item())


@settings(deadline=None)
@given(SEEDS, HEADS, HEADS)
def test_max_cosine_equals_the_loop(seed: int, user_heads: int, item_heads: int) -> None:
    made = MaxCosine(user_heads, item_heads).double()
    nn.init.constant_(made.bias, -0.5)
    user, item = draw(seed, user_heads * P), draw(seed + 1, item_heads * P)
    unit = [x.view(-1, P).numpy() / np.linalg.norm(x.view(-1, P).numpy(), axis=1, keepdims=True) for x in (user, item)]
    best = [max(float(u @ v) for v in unit[1]) for u in unit[0]]
    assert made(user, item).item() == pytest.approx(10 * np.mean(best) - 0.5)


def test_concat_is_an_mlp_over_both_sides() -> None:
    torch.manual_seed(0)
    made, first = ConcatScorer(6), nn.Linear(3 + 4, 6)
    user, item = torch.randn(5, 3), torch.randn(5, 4)
    sides = user @ first.weight[:, :3].T + first.bias, item @ first.weight[:, 3:].T
    expected = made.project(torch.relu(first(torch.cat([user, item], dim=-1)))).squeeze(-1)
    torch.testing.assert_close(made(*sides), expected)


@pytest.mark.parametrize("form", get_args(Form))
def test_late_interactions_by_name(form: Form) -> None:
    """Every form takes both sides as they are joined; cosine alone ignores their lengths."""
    made = late_interaction(form, 2, 2, 4).double()
    user, item = draw(0, 6, 2 * P), draw(1, 6, 2 * P)
    logits, longer = (made(as_joined(form, factor * user), as_joined(form, item)) for factor in (1, 3))
    assert logits.shape == (6,)
    assert torch.allclose(logits, longer) == (form in ("cosine", "max_cosine"))


SCORERS = [
    ScaledDot("scaled"),
    SumMax(2, 2),
    MaxCosine(2, 2),
    LightweightScorer(2, 2, 4),
    FullyConnectedScorer(2, 2, 4),
    FullyConnectedScorer(2, 2, 4, rectified=True),
    ConcatScorer(2 * P),
]


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: type(scorer).__name__)
def test_leading_dimensions_broadcast(scorer: nn.Module) -> None:
    """Serving (1 against K), training (B against B) and in-batch grids (B, 1 against 1, B) agree."""
    scorer = scorer.double()
    users, items = draw(0, 3, 2 * P), draw(1, 5, 2 * P)
    grid = scorer(users.unsqueeze(1), items.unsqueeze(0))
    assert grid.shape == (3, 5)
    for request in range(3):
        torch.testing.assert_close(scorer(users[[request]], items), grid[request])
    torch.testing.assert_close(scorer(users, items[:3]), grid[:, :3].diagonal())


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: type(scorer).__name__)
def test_gradients_equal_finite_differences(scorer: nn.Module) -> None:
    inputs = (draw(0, 3, 2 * P).requires_grad_(), draw(1, 3, 2 * P).requires_grad_())
    assert torch.autograd.gradcheck(scorer.double(), inputs)
