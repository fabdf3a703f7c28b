"""Auxiliary losses that models add to the cross-entropy, each a scalar."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from prerank.layers.dense import dense
from prerank.layers.similarity import normalised

ROUND = 128
"""Products over a batch's distinct items have a multiple of so many of them: oneDNN keeps a kernel for each shape."""


def mimic(augmented: Tensor, partner: Tensor, labels: Tensor) -> Tensor:
    """DAT's adaptive mimic: an augmented vector imitates the other tower's output of its positive partners.

    (1 / T) * sum of y * |a - p|^2 over all T pairs. No gradient reaches the partner.

    Args:
        augmented: (..., W), broadcast against ``partner``.
        partner: (..., W).
        labels: (...) of the pairs.
    """
    distance = (augmented - partner.detach()).float().square().sum(dim=-1)
    return (labels * distance).mean()


def category_alignment(vectors: Tensor, members: Tensor, categories: Tensor) -> Tensor:
    """DAT's CAL: the covariance of every category's vectors approaches that of the largest category.

    The mean over categories with two members or more of |C(largest) - C(category)|^2 (Frobenius).

    Args:
        vectors: (R, W).
        members: (T,) rows of ``vectors``; a row belongs to as many categories as it is named with.
        categories: (T,) their categories; 0, which says that the category is unknown, is left out.
    """
    members, categories = members[categories > 0], categories[categories > 0]
    names, places, counts = categories.unique(return_inverse=True, return_counts=True)
    if len(names) == 0:
        return vectors.sum() * 0.0
    counts, order = counts.sort(descending=True, stable=True)
    of_members = vectors.float().index_select(0, members[order.argsort()[places].argsort()])  # category after category
    sizes, having = counts.unique_consecutive(return_counts=True)
    scatter = [
        _scatter(part.unflatten(0, (-1, size)))
        for part, size in zip(of_members.split((sizes * having).tolist()), sizes.tolist(), strict=True)
    ]
    covariances = torch.cat(scatter) / (counts - 1).clamp(min=1)[:, None, None]
    distances: Tensor = (covariances - covariances[0]).square().sum(dim=(1, 2))
    comparable = counts >= 2
    aligned: Tensor = (distances * comparable).sum() / comparable.sum().clamp(min=1)
    return aligned


def _scatter(vectors: Tensor) -> Tensor:
    """(C, W, W) of the (C, M, W) members of C categories of one size."""
    centred = vectors - vectors.mean(dim=1, keepdim=True)
    return centred.mT @ centred


def info_nce(users: Tensor, items: Tensor, positives: Tensor, temperature: float, ids: Tensor | None) -> Tensor:
    """IntTower's CIR: each user's cosine with its positive, against those with all items of the batch (eq. 10).

    An item that the batch holds several times is compared once and counted as often.

    Args:
        users: (Q, W), one for each positive pair.
        items: (N, W) of the batch.
        positives: (Q,) rows of ``items``.
        temperature: tau.
        ids: (N,) which item each row is, 0 if unknown; other rows of the positive's item are then not taken for
            negatives.

    Returns:
        The mean over the Q pairs; 0 where there are none.
    """
    if len(positives) == 0:
        return items.sum() * 0.0
    rows = torch.arange(len(items), device=items.device)
    names = rows if ids is None else torch.where(ids == 0, -1 - rows, ids)  # unknown items may differ
    distinct, which, counts = names.unique(return_inverse=True, return_counts=True)
    first = torch.empty_like(distinct).scatter_(0, which, rows)  # any: rows of one item are alike
    target, repeated = which[positives], counts.to(items.dtype).log()
    nobody = -len(distinct) % ROUND
    others = F.pad(normalised(items.index_select(0, first)), (0, 0, 0, nobody))
    logits = dense(normalised(users) / temperature, others, F.pad(repeated, (0, nobody), value=-torch.inf)).float()
    logits = logits.scatter_add(1, target.unsqueeze(1), -repeated[target].float().unsqueeze(1))
    return F.cross_entropy(logits, target)


def generation(generated: Tensor, partner: Tensor, chosen: Tensor) -> Tensor:
    """HIT's generation loss: the mean over the chosen pairs of 1 - cosine. No gradient reaches the partner.

    Args:
        generated: (..., W), broadcast against ``partner``.
        partner: (..., W).
        chosen: (...) 1 for the pairs that count, else 0.
    """
    cosines = torch.cosine_similarity(generated.float(), partner.detach().float(), dim=-1)
    return ((1 - cosines) * chosen).sum() / chosen.sum().clamp(min=1)


def stage_order(logits: Tensor, grades: Tensor) -> Tensor:
    """1 - NDCG of a request's candidates by grade, with differentiable ranks (ApproxNDCG, Qin et al. 2010).

    Candidate i has rank 1 + sum over j != i of sigmoid(s_j - s_i), and with grade g it gains 2^g - 1.
    Requests whose grades are all the same are left out.

    Args:
        logits: (B, C).
        grades: (B, C), from 0.
    """
    scores = logits.float()
    ahead = torch.sigmoid(scores.unsqueeze(1) - scores.unsqueeze(2))  # [b, i, j]: j before i
    ranks = ahead.sum(dim=2) + 0.5  # a candidate is half ahead of itself
    gains = torch.exp2(grades) - 1
    discounts = 1 / torch.log2(torch.arange(2, grades.shape[1] + 2, device=grades.device, dtype=gains.dtype))
    reached = (gains / torch.log2(ranks + 1)).sum(dim=1)
    best = gains.sort(dim=1, descending=True).values @ discounts
    mixed = grades.amax(dim=1) > grades.amin(dim=1)
    return ((1 - reached / best.clamp(min=1e-9)) * mixed).sum() / mixed.sum().clamp(min=1)


def listwise(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy over a request's candidates: positives above negatives (ListNet's top-one form).

    Requests whose labels are all the same say nothing of an order and are left out.

    Args:
        logits: (B, C).
        labels: (B, C).
    """
    positives = labels.sum(dim=1)
    mixed = (positives > 0) & (positives < labels.shape[1])
    losses = -(labels * torch.log_softmax(logits.float(), dim=1)).sum(dim=1) / positives.clamp(min=1)
    return (losses * mixed).sum() / mixed.sum().clamp(min=1)
