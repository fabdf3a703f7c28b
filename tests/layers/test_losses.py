"""Auxiliary losses against NumPy loops, and which side of a pair learns from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score
from torch import Tensor

from prerank.layers.losses import category_alignment, generation, info_nce, listwise, mimic, stage_order

SEEDS = st.integers(0, 10_000)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


@settings(deadline=None)
@given(SEEDS)
def test_mimic_equals_the_printed_form(seed: int) -> None:
    """(1 / T) * sum of |y a + (1 - y) p - p|^2, the form in which the loss is printed."""
    augmented, partner = draw(seed, 5, 1, 4), draw(seed + 1, 5, 3, 4)
    labels = (draw(seed + 2, 5, 3) > 0).float()
    total = 0.0
    for b in range(5):
        for c in range(3):
            a, p, y = augmented[b, 0].numpy(), partner[b, c].numpy(), float(labels[b, c])
            total += float(((y * a + (1 - y) * p - p) ** 2).sum())
    assert mimic(augmented, partner, labels).item() == pytest.approx(total / 15, rel=1e-5)


def test_mimic_teaches_the_augmented_vector_only() -> None:
    augmented, partner = draw(0, 4, 3).requires_grad_(), draw(1, 4, 3).requires_grad_()
    mimic(augmented, partner, torch.tensor([1.0, 0.0, 1.0, 0.0])).backward()
    assert partner.grad is None
    assert augmented.grad is not None
    assert augmented.grad.any(dim=1).tolist() == [True, False, True, False]


@settings(deadline=None)
@given(SEEDS)
def test_category_alignment_equals_numpy_covariances(seed: int) -> None:
    """Rows may belong to several categories or to none; 0 is unknown; a category of one row says nothing."""
    vectors = draw(seed, 9, 3)
    members = torch.tensor([0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 8])
    categories = torch.tensor([2, 2, 2, 2, 5, 5, 5, 9, 0, 0, 9])
    of = {c: np.cov(vectors.numpy()[members[categories == c].numpy()].T) for c in (2, 5, 9)}
    expected = np.mean([((of[2] - of[c]) ** 2).sum() for c in (2, 5, 9)])
    assert category_alignment(vectors, members, categories).item() == pytest.approx(expected, rel=1e-4)
    lone = torch.where(categories == 9, torch.arange(11) + 20, categories)
    assert category_alignment(vectors, members, lone).item() == pytest.approx(
        ((of[2] - of[5]) ** 2).sum() / 2, rel=1e-4
    )


def test_category_alignment_without_categories_is_zero() -> None:
    vectors = draw(0, 3, 2).requires_grad_()
    loss = category_alignment(vectors, torch.arange(3), torch.zeros(3, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0.0


@settings(deadline=None)
@given(SEEDS, st.booleans())
def test_info_nce_and_its_gradient_equal_the_loops(seed: int, masked: bool) -> None:
    """Rows of one item are alike; unknown items (0) are not. Each item's gradient is that of all its rows."""
    ids, rows, positives = torch.tensor([3, 1, 3, 0, 1, 3, 0]), [0, 1, 0, 2, 1, 0, 3], torch.tensor([0, 4, 6])
    vectors, users = draw(seed, 4, 4).requires_grad_(), draw(seed + 1, 3, 4).requires_grad_()
    items = vectors[rows]
    losses = []
    for user, own in zip(users, positives.tolist(), strict=True):
        others = [j for j in range(7) if not masked or j == own or ids[j] == 0 or ids[j] != ids[own]]
        scores = {j: (torch.cosine_similarity(user, items[j], dim=0) / 0.1).exp() for j in others}
        losses.append(-torch.log(scores[own] / torch.stack(list(scores.values())).sum()))
    expected = torch.stack(losses).mean()
    loss = info_nce(users, vectors[rows], positives, 0.1, ids if masked else None)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for found, right in zip(*(torch.autograd.grad(each, (vectors, users)) for each in (loss, expected)), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-4)


def test_info_nce_without_positives_is_zero() -> None:
    items = draw(0, 5, 2).requires_grad_()
    loss = info_nce(items[:0], items, torch.zeros(0, dtype=torch.int64), 0.1, None)
    loss.backward()
    assert loss.item() == 0.0


@settings(deadline=None)
@given(SEEDS)
def test_generation_equals_the_loop(seed: int) -> None:
    generated, partner = draw(seed, 4, 1, 3).requires_grad_(), draw(seed + 1, 4, 2, 3).requires_grad_()
    chosen = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    pairs = [(b, c) for b in range(4) for c in range(2) if chosen[b, c]]
    g, p = generated.detach().numpy(), partner.detach().numpy()
    loss = generation(generated, partner, chosen)
    assert loss.item() == pytest.approx(np.mean([1 - cosine(g[b, 0], p[b, c]) for b, c in pairs]), rel=1e-4)
    loss.backward()
    assert partner.grad is None
    assert generated.grad is not None
    assert generated.grad.flatten(1).any(dim=1).tolist() == [True, True, True, False]


def test_listwise_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [5.0, 1.0, 0.0], [1.0, 2.0, 3.0], [0.0, 0.0, 7.0]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    log_softmax = logits.double().numpy() - np.log(np.exp(logits.double().numpy()).sum(axis=1, keepdims=True))
    expected = -(log_softmax[0, 0] + (log_softmax[1, 1] + log_softmax[1, 2]) / 2) / 2
    assert listwise(logits, labels).item() == pytest.approx(expected)
    assert listwise(logits[:, :1], labels[:, :1]).item() == 0.0


def test_listwise_descent_puts_positives_first() -> None:
    logits, labels = torch.zeros(1, 4, requires_grad=True), torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    listwise(logits, labels).backward()
    assert logits.grad is not None
    assert (logits.grad < 0).tolist() == [[False, True, False, True]]


@settings(deadline=None)
@given(SEEDS)
def test_stage_order_is_one_less_ndcg_where_logits_are_far_apart(seed: int) -> None:
    """Then the differentiable ranks are the ranks, and scikit-learn knows the NDCG."""
    grades = (draw(seed, 6, 5) * 1.5).abs().floor().clamp(max=3)
    logits = draw(seed + 1, 6, 5).argsort(dim=1).float() * 100
    mixed = [row for row in range(6) if len(set(grades[row].tolist())) > 1]
    gains = (2**grades - 1).numpy()
    expected = [1 - ndcg_score(gains[row : row + 1], logits[row : row + 1].numpy()) for row in mixed]
    assert stage_order(logits, grades).item() == pytest.approx(np.mean(expected) if mixed else 0.0, abs=1e-5)


def test_stage_order_pulls_stages_apart() -> None:
    """Against the gradient a reversed request becomes ordered; a request of one stage says nothing."""
    logits = torch.tensor([[0.0, 0.1, 0.2, 0.3], [0.3, 0.1, 0.2, 0.0]], requires_grad=True)
    before = logits.detach().clone()
    grades = torch.tensor([[3.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    optimiser = torch.optim.SGD([logits], lr=1.0)
    for _ in range(300):
        optimiser.zero_grad()
        stage_order(logits, grades).backward()
        optimiser.step()
    assert logits[0].argsort(descending=True).tolist() == [0, 1, 2, 3]
    assert torch.equal(logits[1].detach(), before[1])
