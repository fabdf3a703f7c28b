"""Scoring in one pass over the store's rows: similarities of heads, then what a scorer makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prerank.layers.similarity import FullyConnectedScorer, LightweightScorer, MaxCosine, ScaledDot, SumMax
from prerank.publish.item_ids import Ints
from prerank.publish.plan import kernels
from prerank.publish.plan.base import Floats, NoPlanError
from prerank.publish.store import ItemStore

Join = Callable[[Floats], Floats]


class HeadScores:
    """Logits of candidates whose scorers read nothing but the similarities of heads."""

    def __init__(self, *scorers: nn.Module) -> None:
        """Take scorers apart: one, or those of several user representations side by side, whose scores add up.

        Raises:
            NoPlanError: such a scorer cannot be.
        """
        parts = [_taken_apart(scorer) for scorer in scorers]
        self.user_heads, self.item_heads = sum(part[0] for part in parts), parts[0][1]
        self.joins = [join for _, _, join in parts]
        self.cosines = isinstance(scorers[0], MaxCosine)

    def __call__(self, users: Floats, choices: NDArray[Any], store: ItemStore, positions: Ints) -> Floats:
        """(K,) logits.

        Args:
            users: (N, Hu * P).
            choices: (K,) which of the user's representations a candidate meets.
            store: where the candidates are.
            positions: (K,) the candidates' positions in the store.
        """
        rows, places = store.floats(positions)
        similarities = np.empty((self.user_heads * self.item_heads, len(positions)), dtype=np.float32)
        kernels.similarities(users, choices, rows, places, self.user_heads, self.item_heads, similarities)
        if self.cosines:
            kernels.to_cosines(users, choices, rows, places, self.user_heads, self.item_heads, similarities)
        of_each = similarities.reshape(len(self.joins), len(similarities) // len(self.joins), -1)
        logits = self.joins[0](of_each[0])
        for join, part in zip(self.joins[1:], of_each[1:], strict=True):
            logits += join(part)
        return logits


def _taken_apart(scorer: nn.Module) -> tuple[int, int, Join]:
    """Hu, Hv, and the function from (Hu * Hv, K) similarities to (K,) logits."""
    match scorer:
        case ScaledDot():
            return 1, 1, _affine(scorer)
        case SumMax():
            return *scorer.heads, _sum_max(*scorer.heads)
        case MaxCosine():
            return *scorer.heads, _max_cosine(scorer)
        case FullyConnectedScorer():
            return *scorer.heads, _fully_connected(scorer)
        case LightweightScorer():
            return *scorer.heads, _lightweight(scorer)
    raise NoPlanError(f"{type(scorer).__name__} has no pass of its own")


def _affine(scorer: ScaledDot) -> Join:
    scale = np.float32(1 if scorer.scale is None else scorer.scale.item())
    bias = np.float32(0 if scorer.bias is None else scorer.bias.item())
    return lambda similarities: similarities[0] * scale + bias


def _sum_max(user_heads: int, item_heads: int) -> Join:
    def join(similarities: Floats) -> Floats:
        best: Floats = similarities.reshape(user_heads, item_heads, -1).max(axis=1).sum(axis=0)
        return best

    return join


def _max_cosine(scorer: MaxCosine) -> Join:
    total = _sum_max(*scorer.heads)
    scale, bias = np.float32(scorer.scale.item() / scorer.heads[0]), np.float32(scorer.bias.item())
    return lambda cosines: total(cosines) * scale + bias


def _fully_connected(scorer: FullyConnectedScorer) -> Join:
    hidden, project = scorer.hidden, scorer.project

    def join(similarities: Floats) -> Floats:
        h = hidden(torch.from_numpy(similarities).T)
        logits: Floats = project(h.relu_() if scorer.rectified else h).squeeze(-1).numpy()
        return logits

    return join


def _lightweight(scorer: LightweightScorer) -> Join:
    width = scorer.rows.out_features
    w1, b1, w2, b2 = (array(part) for layer in (scorer.rows, scorer.columns) for part in (layer.weight, layer.bias))
    projection = array(scorer.project.weight).reshape(width, width)
    bias = np.float32(scorer.project.bias.item())

    def join(similarities: Floats) -> Floats:
        logits = np.empty(similarities.shape[1], dtype=np.float32)
        kernels.lightweight_scores(similarities, w1, b1, w2, b2, projection, bias, logits)
        return logits

    return join


def array(tensor: Tensor) -> Floats:
    """A constant of a plan."""
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)
