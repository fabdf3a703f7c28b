"""The item meta matrix: equation 5 as a loop, the choice of a query, the temperature."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prerank.data.loader import EncodedDataset, Loader
from prerank.layers.meta_query import MetaQuery, temperature
from prerank.models.fit import FIT, FITConfig

SEEDS = st.integers(0, 10_000)


def queries(
    seed: int,
    count: int = 7,
    width: int = 4,
    self_attention: bool = True,
    keys: Literal["attended", "raw"] = "attended",
) -> MetaQuery:
    torch.manual_seed(seed)
    return MetaQuery(count, width, self_attention, keys)


def candidates(seed: int, rows: int = 9, width: int = 4) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def margins(made: MetaQuery, items: Tensor) -> Tensor:
    """By how much each item prefers its first query to the second; equal ones may change places in rounding."""
    keys = made.group() if made.keys == "attended" else made.matrix
    best = (items @ keys.detach().T).topk(2, dim=-1).values
    return best[:, 0] - best[:, 1]


@pytest.mark.parametrize(
    ("epochs", "expected"), [(0.0, 1.0), (0.25, 0.75), (0.999, 0.001), (0.9995, 0.001), (1.0, 0.001), (50.0, 0.001)]
)
def test_temperature_of_the_paper(epochs: float, expected: float) -> None:
    assert temperature(epochs, 1.0) == pytest.approx(expected, rel=1e-9)


def test_temperature_with_a_longer_decay() -> None:
    assert temperature(1.0, 4.0) == pytest.approx(0.75)
    assert temperature(4.0, 4.0) == 0.001


def test_start_is_kaiming_uniform() -> None:
    matrix = queries(0, count=2000, width=32).matrix.detach()
    bound = np.sqrt(6 / 32)
    assert matrix.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert matrix.abs().max().item() <= bound
    assert matrix.std().item() == pytest.approx(bound / np.sqrt(3), rel=0.01)


@settings(deadline=None)
@given(SEEDS)
def test_group_equals_the_loop(seed: int) -> None:
    made = queries(seed)
    q = made.matrix.detach().double().numpy()
    loop = np.stack([sum((qi @ qj) * qj for qj in q) for qi in q])
    np.testing.assert_allclose(made.group().detach(), loop, rtol=1e-5, atol=1e-5)


def test_without_self_attention_the_group_is_the_matrix() -> None:
    made = queries(0, self_attention=False)
    assert torch.equal(made.group(), made.matrix)


@settings(deadline=None)
@given(SEEDS, st.permutations(range(7)))
def test_permuting_the_matrix_permutes_group_and_index(seed: int, order: list[int]) -> None:
    made, moved, items = queries(seed), queries(seed), candidates(seed)
    places = torch.tensor(order)
    with torch.no_grad():
        moved.matrix.copy_(made.matrix[places])
    torch.testing.assert_close(moved.group(), made.group()[places], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moved.soft(items, 0.3), made.soft(items, 0.3), rtol=1e-3, atol=1e-3)
    clear = margins(made, items) > 1e-4
    assert torch.equal(places[moved.index(items)][clear], made.index(items)[clear])
    torch.testing.assert_close(
        moved.hard(moved.index(items))[clear], made.hard(made.index(items))[clear], rtol=1e-5, atol=1e-5
    )


@settings(deadline=None)
@given(SEEDS, st.floats(0.001, 10.0), st.sampled_from(["attended", "raw"]))
def test_index_is_the_largest_softmax_weight_at_any_temperature(
    seed: int, tau: float, keys: Literal["attended", "raw"]
) -> None:
    made, items = queries(seed, keys=keys), candidates(seed)
    compared = (made.group() if keys == "attended" else made.matrix).detach().double()
    weights = torch.softmax(items.double() @ compared.T / tau, dim=-1)
    index = made.index(items)
    assert index.dtype == torch.int64
    clear = margins(made, items) > 1e-4
    assert clear.float().mean() > 0.5
    assert torch.equal(index[clear], weights.argmax(-1)[clear])
    if tau > 0.1:  # rounding of single precision, over the temperature
        torch.testing.assert_close(
            made.soft(items, tau).double(), weights @ made.group().double(), rtol=1e-3, atol=1e-3
        )


def test_soft_becomes_hard_as_the_temperature_falls() -> None:
    """With two keys at distance 1, the other query keeps a weight of 1 / (1 + exp(1 / tau))."""
    made = MetaQuery(2, 2, self_attention=False, keys="raw")
    with torch.no_grad():
        made.matrix.copy_(torch.eye(2))
    item = torch.tensor([[3.0, 2.0]])
    for tau in (1.0, 0.5, 0.1, 0.01, 0.001):
        other = 1 / (1 + np.exp(1 / tau)) if tau > 0.002 else 0.0
        np.testing.assert_allclose(made.soft(item, tau).detach(), [[1 - other, other]], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(made.soft(item, 0.001), made.hard(made.index(item)))


def test_leading_dimensions() -> None:
    made, items = queries(3), candidates(3, rows=6)
    assert torch.equal(made.index(items.view(2, 3, 4)), made.index(items).view(2, 3))
    torch.testing.assert_close(made.soft(items.view(2, 3, 4), 0.5), made.soft(items, 0.5).view(2, 3, 4))
    assert torch.equal(made.hard(torch.tensor([[1, 2], [3, 1]])), made.group()[torch.tensor([[1, 2], [3, 1]])])


@pytest.mark.parametrize("keys", ["attended", "raw"])
def test_gradients_of_the_soft_query(keys: Literal["attended", "raw"]) -> None:
    """Against a formulation of its own, in double precision."""
    made, items = queries(5, keys=keys), candidates(5).requires_grad_()
    weights = torch.randn(9, 4)
    gradients = torch.autograd.grad((made.soft(items, 0.7) * weights).sum(), [made.matrix, items])
    q, x = (tensor.detach().double().requires_grad_() for tensor in (made.matrix, items))
    group = torch.einsum("ik,jk,jd->id", q, q, q)
    chosen = torch.softmax(x @ (group if keys == "attended" else q).T / 0.7, dim=-1)
    expected = torch.autograd.grad((chosen @ group * weights).sum(), [q, x])
    for one, two in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-4, atol=1e-3)


def test_hard_queries_teach_the_whole_matrix_through_self_attention() -> None:
    made = queries(1)
    (gradient,) = torch.autograd.grad(made.hard(torch.tensor([2])).sum(), made.matrix)
    assert (gradient.abs().sum(1) > 0).all()


def test_autocast_changes_nothing() -> None:
    torch.manual_seed(0)
    made, items = MetaQuery(16, 8, True, "attended"), torch.randn(20, 8)
    plain = made.soft(items, 0.001), made.group(), made.index(items)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = made.soft(items, 0.001), made.group(), made.index(items)
    for one, two in zip(plain, mixed, strict=True):
        assert torch.equal(one, two)


def test_only_an_unused_query_is_revived() -> None:
    """Without a candidate, an even share of 1/3 falls below a tenth of it after 45 batches: 0.95^45 = 0.0994."""
    made = MetaQuery(3, 2, self_attention=False, keys="raw", revival=True)
    with torch.no_grad():
        made.matrix.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0], [-2.0, -2.0]]))
    before = made.matrix.detach().clone()
    items = torch.tensor([[0.5, 0.0], [0.0, 0.25]])
    for _ in range(44):
        made.revive(items)
    assert torch.equal(made.matrix, before)
    np.testing.assert_allclose(made.usage, [0.5 - 0.95**44 / 6] * 2 + [0.95**44 / 3], rtol=1e-4)
    made.revive(items)
    assert torch.equal(made.matrix[:2], before[:2])
    torch.testing.assert_close(made.matrix[2].norm(), before.norm(dim=1).mean())
    assert (made.matrix[2] > 0).sum() == 1  # in the direction of one of the two items
    assert made.usage[2].item() == pytest.approx(1 / 3)


def test_a_query_is_revived_during_the_first_epoch_of_training_only(encoded: EncodedDataset) -> None:
    config = FITConfig(embedding=4, embedding_std=0.5, meta_queries=40, revival=True)
    model = FIT(encoded.encoder.inputs, config)
    batch = next(Loader(encoded, "train", 128, seed=0).batches())

    def changes(training: bool, epochs: float) -> bool:
        before = model.queries.matrix.detach().clone()
        model.queries.usage.zero_()
        with torch.no_grad():
            model.train(training).relaxed(batch, epochs)
        return not torch.equal(before, model.queries.matrix)

    assert not changes(training=False, epochs=0.5)
    assert not changes(training=True, epochs=1.0)
    assert changes(training=True, epochs=0.5)
