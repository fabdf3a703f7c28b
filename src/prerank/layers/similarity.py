"""Late interaction: what joins a user representation and an item representation into a logit.

Every scorer maps (..., Wu) and (..., Wv), whose leading dimensions broadcast, to a logit (...).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Form = Literal["lss", "fc", "mlp", "sum_max", "max_cosine", "cosine", "dot"]
"""Late interactions by name. All but the last two read the matrix of head similarities."""


def late_interaction(form: Form, user_heads: int, item_heads: int, width: int) -> nn.Module:
    """The scorer of that name.

    Args:
        form: ``lss`` and ``fc`` are FIT's, ``mlp`` is FC with a ReLU; ``sum_max`` is ColBERT's and IntTower's,
            ``max_cosine`` RankTower's. ``cosine`` and ``dot`` join the whole vectors; both sides pass theirs
            through ``as_joined``.
        user_heads, item_heads: Hu and Hv.
        width: of the hidden layers of ``lss``, ``fc`` and ``mlp``.
    """
    makers: dict[Form, Callable[[], nn.Module]] = {
        "lss": lambda: LightweightScorer(user_heads, item_heads, width),
        "fc": lambda: FullyConnectedScorer(user_heads, item_heads, width),
        "mlp": lambda: FullyConnectedScorer(user_heads, item_heads, width, rectified=True),
        "sum_max": lambda: SumMax(user_heads, item_heads),
        "max_cosine": lambda: MaxCosine(user_heads, item_heads),
        "cosine": lambda: ScaledDot("scaled"),
        "dot": lambda: ScaledDot("bias"),
    }
    return makers[form]()


def as_joined(form: Form, x: Tensor) -> Tensor:
    """A representation as a side gives it to the scorer: of unit length for ``cosine``, so that a store holds it so."""
    return normalised(x) if form == "cosine" else x


def normalised(x: Tensor) -> Tensor:
    """x / max(|x|, eps) over the last dimension (FIT eq. 2)."""
    return F.normalize(x, dim=-1)


class ScaledDot(nn.Module):
    """logit = scale * <u, v> + bias (FIT eq. 3).

    On normalised vectors the papers print neither scale nor bias, which confines the probability to
    [0.5, 0.73]; ``scaled`` learns both (scale from 10). ``bias`` learns the bias only (IntTower's code),
    ``printed`` neither.
    """

    def __init__(self, form: Literal["scaled", "bias", "printed"]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0)) if form == "scaled" else None
        self.bias = nn.Parameter(torch.tensor(0.0)) if form != "printed" else None

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """(..., W) and (..., W) to (...)."""
        logit: Tensor = torch.linalg.vecdot(user, item)
        if self.scale is not None:
            logit = logit * self.scale
        return logit if self.bias is None else logit + self.bias


def head_similarities(user: Tensor, item: Tensor, user_heads: int, item_heads: int) -> Tensor:
    """(..., Hu, Hv) dot products of all pairs of heads of (..., Hu * P) and (..., Hv * P) (FIT eq. 13)."""
    of_user: Tensor = user.unflatten(-1, (user_heads, -1))
    of_item: Tensor = item.unflatten(-1, (item_heads, -1))
    if user.dim() == item.dim() > 1 and user.shape[-2] == 1 < item.shape[-2]:
        # One user: its candidates' heads in a row, so that its own are not copied for each.
        in_a_row = of_user.squeeze(-3) @ of_item.flatten(-3, -2).mT
        of_candidates: Tensor = in_a_row.unflatten(-1, (-1, item_heads)).movedim(-2, -3)
        return of_candidates
    return of_user @ of_item.mT


def sum_max(similarities: Tensor) -> Tensor:
    """Sum over user heads of the best item head: (..., Hu, Hv) to (...) (FIT eq. 10)."""
    return similarities.amax(dim=-1).sum(dim=-1)


class SumMax(nn.Module):
    """The ablation "w SumMax": sum-max of the head similarities, without parameters."""

    def __init__(self, user_heads: int, item_heads: int) -> None:
        super().__init__()
        self.heads = (user_heads, item_heads)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """(..., Hu * P) and (..., Hv * P) to (...)."""
        return sum_max(head_similarities(user, item, *self.heads))


class MaxCosine(nn.Module):
    """logit = scale * mean over user heads of the best cosine with an item head + bias (RankTower, inferred)."""

    def __init__(self, user_heads: int, item_heads: int) -> None:
        super().__init__()
        self.heads = (user_heads, item_heads)
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """(..., Hu * P) and (..., Hv * P) to (...)."""
        cosines = head_similarities(user, item, *self.heads) / (
            _lengths(user, self.heads[0]).unsqueeze(-1) * _lengths(item, self.heads[1]).unsqueeze(-2)
        )
        logit: Tensor = self.scale * sum_max(cosines) / self.heads[0] + self.bias
        return logit


def _lengths(x: Tensor, heads: int) -> Tensor:
    """(..., H * P) to (..., H), as ``normalised`` takes them."""
    lengths: Tensor = torch.linalg.vector_norm(x.unflatten(-1, (heads, -1)), dim=-1)
    return lengths.clamp(min=1e-12)


class LightweightScorer(nn.Module):
    """FIT's LSS: row-wise FC, column-wise FC and a projection of the similarity matrix (eqs. 14 to 16).

    The printed shapes do not type-check; here W1 is (d, Hv), W2 is (d, Hu), b1 and b2 are (d,). The flattened
    order is (output of the column FC, column). The output bias is ours: the paper prints none, and a base rate
    far from one half needs it.
    """

    def __init__(self, user_heads: int, item_heads: int, width: int) -> None:
        super().__init__()
        self.heads = (user_heads, item_heads)
        self.rows = nn.Linear(item_heads, width)
        self.columns = nn.Linear(user_heads, width)
        self.project = nn.Linear(width * width, 1)
        nn.init.zeros_(self.project.bias)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """(..., Hu * P) and (..., Hv * P) to (...)."""
        similarities = head_similarities(user, item, *self.heads)
        rows = F.relu(self.rows(similarities))
        columns = F.relu(self.columns(rows.transpose(-1, -2)))  # (..., column, output)
        weight = self.project.weight.view(columns.shape[-2:]).T.reshape(1, -1)
        return F.linear(columns.flatten(-2), weight, self.project.bias).squeeze(-1)


class FullyConnectedScorer(nn.Module):
    """The variant "w FC": w' . (W3 vec(S) + b3), linear in S as printed (FIT eq. 17), with an output bias.

    ``rectified`` puts a ReLU between the two layers, which makes it an MLP.
    """

    def __init__(self, user_heads: int, item_heads: int, width: int, *, rectified: bool = False) -> None:
        super().__init__()
        self.heads = (user_heads, item_heads)
        self.rectified = rectified
        self.hidden = nn.Linear(user_heads * item_heads, width)
        self.project = nn.Linear(width, 1)
        nn.init.zeros_(self.project.bias)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """(..., Hu * P) and (..., Hv * P) to (...)."""
        hidden = self.hidden(head_similarities(user, item, *self.heads).flatten(-2))
        logit: Tensor = self.project(F.relu(hidden) if self.rectified else hidden)
        return logit.squeeze(-1)


class ConcatScorer(nn.Module):
    """A two-layer MLP over both sides: w . relu([W_u, W_v] [h_u, h_v]) + b (IntTower's ablation FC(h_u || h_v)).

    The first layer is split: either side's projection, which is what this scorer is given, is computed ahead.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """(..., W) and (..., W) to (...)."""
        logit: Tensor = self.project(F.relu(user + item))
        return logit.squeeze(-1)
