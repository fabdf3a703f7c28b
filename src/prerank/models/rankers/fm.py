"""FM, factorisation machine (Rendle, ICDM 2010), taken apart: a ranker that serves like a two-tower."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prerank.batch import Features, History
from prerank.layers.crossing import pairwise_products
from prerank.layers.embedding import FieldEmbeddings
from prerank.layers.linear import LinearTerm
from prerank.layers.pooling import mean_pool
from prerank.models.base import ModelConfig, PreRankingModel
from prerank.schema import Inputs


class FMConfig(ModelConfig):
    """The embedding width is all there is to choose."""

    name: Literal["fm"] = "fm"


class FM(PreRankingModel):
    """logit = b + sum_f w_f[x_f] + sum_{f < g} <e_f, e_g>.

    Pairs of fields within one side do not need the other, and pairs across are the dot product of both sides'
    sums. So a row is [scalar | sum of embeddings], and a candidate costs d multiplications; nothing is approximated.
    Pair features join the item's side when a request comes.
    """

    reads_pairs = True

    def __init__(self, inputs: Inputs, config: FMConfig) -> None:
        super().__init__(inputs, config)
        self.pair_fields = FieldEmbeddings(inputs.pair, config.embedding, config.embedding_std)
        self.linear = LinearTerm(inputs, config.embedding_std)
        self.behaviour_width += 1

    def behaviour(self, features: Features) -> Tensor:
        """(R, 1 + D) [linear weight | history fields] of R items as a history sees them."""
        return torch.cat([self.linear.past(features), super().behaviour(features)], dim=-1)

    def user(self, features: Features, history: History) -> Tensor:
        """(B, 1 + d) [scalar | sum] over profile, context and the means of the history's fields."""
        past = mean_pool(history)
        embedded = torch.cat([self.user_fields(features), past[:, 1:]], dim=-1)
        return self._side(self.linear.user(features, past[:, :1]), embedded)

    def item(self, features: Features) -> Tensor:
        """(R, 1 + d) [scalar | sum] over item fields."""
        return self._side(self.linear.item(features), self.item_fields(features))

    def with_pairs(self, items: Tensor, pairs: Features) -> Tensor:
        """(..., 1 + d) [scalar | sum] over item and pair fields: both sides' own and their dot product."""
        added = self._side(self.linear.pair(pairs), self.pair_fields(pairs)).view(items.shape)
        across = (items[..., 1:] * added[..., 1:]).sum(-1, keepdim=True)
        joined = items + added
        return torch.cat([joined[..., :1] + across, joined[..., 1:]], dim=-1)

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """Both scalars and the dot product of both sums."""
        return user[..., 0] + item[..., 0] + (user[..., 1:] * item[..., 1:]).sum(-1)

    def _side(self, linear: Tensor, embedded: Tensor) -> Tensor:
        fields = embedded.unflatten(-1, (-1, self.config.embedding))
        return torch.cat([linear + pairwise_products(fields).unsqueeze(-1), fields.sum(-2)], dim=-1)
