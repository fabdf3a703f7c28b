"""The linear ("wide") term: one weight for each value of each field."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prerank.batch import Features
from prerank.layers.embedding import FieldEmbeddings
from prerank.schema import Inputs


class LinearTerm(nn.Module):
    """Logistic regression's logit b + sum_f w_f[x_f], in the parts that a request, an item and a past item give.

    A past item has weights of its own: that a film was watched says something else than that it is offered.
    Multi-valued fields take the mean of their values' weights, histories that of their items' weights.
    """

    def __init__(self, inputs: Inputs, std: float) -> None:
        super().__init__()
        self.user_weights = FieldEmbeddings(inputs.user, 1, std)
        self.item_weights = FieldEmbeddings(inputs.item, 1, std)
        self.pair_weights = FieldEmbeddings(inputs.pair, 1, std)
        self.past_weights = FieldEmbeddings({name: inputs.item[name] for name in inputs.history}, 1, std)
        self.bias = nn.Parameter(torch.zeros(1))

    def user(self, features: Features, past: Tensor) -> Tensor:
        """(B, 1) from B rows of user fields and the (B, 1) means of ``past`` over their histories."""
        summed: Tensor = self.user_weights(features).sum(-1, keepdim=True)
        return summed + past + self.bias

    def item(self, features: Features) -> Tensor:
        """(R, 1) of R candidates."""
        summed: Tensor = self.item_weights(features).sum(-1, keepdim=True)
        return summed

    def pair(self, features: Features) -> Tensor:
        """(R, 1) of R pairs of request and candidate."""
        summed: Tensor = self.pair_weights(features).sum(-1, keepdim=True)
        return summed

    def past(self, features: Features) -> Tensor:
        """(M, 1) of M items as a history sees them."""
        summed: Tensor = self.past_weights(features).sum(-1, keepdim=True)
        return summed
