"""The base of models whose ``score`` is the whole network: COLD and the rankers of the next stage.

Additional shape letters: F fields of request and candidate together, d the width of one field's embedding.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from prerank.batch import Features, History
from prerank.layers.embedding import FieldEmbeddings
from prerank.layers.linear import LinearTerm
from prerank.layers.pooling import mean_pool
from prerank.models.base import ModelConfig, PreRankingModel
from prerank.schema import Inputs


class SingleTower(PreRankingModel):
    """``user`` and ``item`` look embeddings up; a subclass says in ``logit`` what becomes of them together.

    A row is [linear | fields]: the fields' embeddings one after the other, and before them, in a wide model, the
    scalar that the side adds to the logit. Of the user side the fields are profile, context, and the history's
    fields, each averaged over the history. Pair fields join the item's row when a request comes.
    """

    reads_pairs = True

    def __init__(self, inputs: Inputs, config: ModelConfig, *, wide: bool = False) -> None:
        """Make the tables.

        Args:
            inputs: what the data looks like.
            config: what the model is.
            wide: whether the logit has a linear term.
        """
        super().__init__(inputs, config)
        self.field_names = inputs.names
        self.pair_width = len(inputs.pair) * config.embedding
        self.pair_fields = FieldEmbeddings(inputs.pair, config.embedding, config.embedding_std)
        self.fields_width = len(self.field_names) * config.embedding
        self.linear = LinearTerm(inputs, config.embedding_std) if wide else None
        if wide:
            self.behaviour_width += 1

    def behaviour(self, features: Features) -> Tensor:
        """(R, D) history fields of R items, embedded; in a wide model (R, 1 + D) with their linear weight first."""
        embedded = super().behaviour(features)
        return embedded if self.linear is None else torch.cat([self.linear.past(features), embedded], dim=-1)

    def user(self, features: Features, history: History) -> Tensor:
        """(B, Wu) [linear | profile and context fields | means of the history's fields]."""
        profile, past = self.user_fields(features), mean_pool(history)
        if self.linear is None:
            return torch.cat([profile, past], dim=-1)
        return torch.cat([self.linear.user(features, past[:, :1]), profile, past[:, 1:]], dim=-1)

    def item(self, features: Features) -> Tensor:
        """(R, Wv) [linear | item fields]."""
        embedded: Tensor = self.item_fields(features)
        return embedded if self.linear is None else torch.cat([self.linear.item(features), embedded], dim=-1)

    def with_pairs(self, items: Tensor, pairs: Features) -> Tensor:
        """(..., Wv') [linear | item fields | pair fields]."""
        joined = torch.cat([items, self.pair_fields(pairs).view(*items.shape[:-1], self.pair_width)], dim=-1)
        if self.linear is None:
            return joined
        scalar = joined[..., :1] + self.linear.pair(pairs).view(*items.shape[:-1], 1)
        return torch.cat([scalar, joined[..., 1:]], dim=-1)

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """The network on every pair, all pairs being rows of one list: BatchNorm takes no candidate for a channel."""
        shape = torch.broadcast_shapes(user.shape[:-1], item.shape[:-1])
        logit = self.logit(self.join(user, item)).view(shape)
        return logit if self.linear is None else logit + user[..., 0] + item[..., 0]

    def join(self, user: Tensor, item: Tensor) -> Tensor:
        """(n, F, d) the fields of all n pairs of (..., Wu) with (..., Wv), whose leading dimensions broadcast."""
        shape = torch.broadcast_shapes(user.shape[:-1], item.shape[:-1])
        scalar = 0 if self.linear is None else 1
        sides = [side[..., scalar:].expand(*shape, -1) for side in (user, item)]
        return torch.cat(sides, dim=-1).view(-1, len(self.field_names), self.config.embedding)

    @abstractmethod
    def logit(self, fields: Tensor) -> Tensor:
        """(n,) logits of n pairs from their (n, F, d) fields, without the linear term."""
