"""FIT in serving (sec. 4.3.2): all that depends on the meta queries alone is computed once.

The attention is ``FixedAttention``. Of the user tower's first layer, the share of the query and the bias are a constant
of each query, and the user fields' share is computed once, which leaves the pooled interest; exactly the model's
values, up to rounding. BatchNorm is folded everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from prerank.batch import Features
from prerank.layers.folding import folded
from prerank.layers.similarity import normalised
from prerank.models.fit import FIT
from prerank.publish.item_ids import Ints
from prerank.publish.plan import kernels
from prerank.publish.plan.attention import FixedAttention
from prerank.publish.plan.base import Past, Plan, Score
from prerank.publish.plan.scoring import HeadScores, array
from prerank.publish.store import ItemStore

FEW = 0.8  # below this share of the queries, only those that the candidates use are computed


class FITPlan(Plan):
    """FIT with meta queries and attention."""

    def __init__(self, model: FIT, items: int) -> None:
        """Fold a model in evaluation mode, on the CPU, which serves a store of so many items.

        Raises:
            NoPlanError: a part of the model has no folded form here.
        """
        model = folded(model)
        queries = model.queries.group()
        self.queries = len(queries)
        self.user_fields = model.user_fields
        self.attention = FixedAttention(model.unit, queries, items)
        self.tower = _QueriedTower(model, queries)
        self.scores = HeadScores(model.scorer)

    def begin(
        self, features: Features, past: Past, store: ItemStore, positions: Ints, pairs: Features | None = None
    ) -> Score:
        """See ``Plan``."""
        assert pairs is None
        choices = store.indices(positions)[:, 0].astype(np.int64)  # one type whatever the store's: compiled once
        used = np.flatnonzero(np.bincount(choices, minlength=self.queries))
        chosen = None
        if len(used) < FEW * self.queries:
            places = np.zeros(self.queries, dtype=choices.dtype)
            places[used] = np.arange(len(used))
            choices, chosen = places[choices], torch.from_numpy(used)
        interest = self.attention(past, chosen)
        users = self.tower(self.user_fields(features), interest, chosen).numpy()
        return lambda places: self.scores(users, choices[places], store, positions[places])

    def prepare(self, store: ItemStore) -> None:
        """Keep the attention weights of all items, or of as many as there is room for."""
        self.attention.prepare(store)


class _QueriedTower:
    """The user tower on [user fields | interest | query], with a share of the first layer for each of the three."""

    def __init__(self, model: FIT, queries: Tensor) -> None:
        layers = [layer for layer in model.user_tower.layers if isinstance(layer, nn.Linear)]
        self.normalise = model.config.scorer == "cosine"
        first, width = layers[0], queries.shape[1]
        sizes = [first.in_features - 2 * width, width, width]
        self.of_profile, self.of_interest, of_query = (part.T.contiguous() for part in first.weight.split(sizes, dim=1))
        self.constants = torch.addmm(first.bias, queries, of_query)
        self.rest = [(layer.weight.T.contiguous(), array(layer.bias)[None]) for layer in layers[1:]]
        self.heads = (model.user_heads.weight.T.contiguous(), model.user_heads.bias) if model.headed else None

    def __call__(self, profile: Tensor, interest: Tensor, chosen: Tensor | None) -> Tensor:
        """(n, W) representations for (1, U) user fields and the (n, D) interests of the queries asked for."""
        constants = self.constants if chosen is None else self.constants.index_select(0, chosen)
        x = interest @ self.of_interest
        kernels.rectify(x.numpy(), (constants + profile @ self.of_profile).numpy())
        for weight, bias in self.rest:
            x = x @ weight
            kernels.rectify(x.numpy(), bias)
        if self.heads is not None:
            x = (x @ self.heads[0]).add_(self.heads[1])
        return normalised(x) if self.normalise else x
