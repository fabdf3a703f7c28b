"""FM and DeepFM as interaction unit: every field of query, history and profile meets every other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prerank.batch import History
from prerank.layers.pooling import mean_rows
from prerank.layers.unit import InteractionUnit


class FieldUnit(InteractionUnit):
    """DeepFM over the fields of a query, of the mean of the history, and of the user.

    FIT names DeepFM as a unit and says no more; this form is ours. The FM part is the vector of second order
    (Rendle 2010, before its components are summed), 1/2 ((sum of e_f)^2 - sum of e_f^2) over all fields f. The deep
    part is a ReLU network on the concatenated fields, whose first layer is split so that the part of history and
    user is computed once for all queries. Without hidden layers the unit is FM alone.
    """

    def __init__(self, query_fields: int, profile_fields: int, embedding: int, hidden: Sequence[int]) -> None:
        """Build the deep part.

        Args:
            query_fields: l, of a query and of a behaviour.
            profile_fields: F, of the user.
            embedding: d, of a field.
            hidden: widths of the deep part; none is FM.
        """
        super().__init__()
        self.width, self.embedding = embedding + sum(hidden[-1:]), embedding
        self.of_query = nn.Linear(query_fields * embedding, hidden[0], bias=False) if hidden else None
        self.of_user = nn.Linear((query_fields + profile_fields) * embedding, hidden[0]) if hidden else None
        self.rest = nn.ModuleList(map(nn.Linear, hidden, hidden[1:]))

    def forward(self, queries: Tensor, history: History, profile: Tensor) -> Tensor:
        """(B, C, d + last hidden width) from (B, C, l * d) queries and (B, F, d) profiles."""
        with torch.autocast(queries.device.type, enabled=False):
            queries = queries.to(profile.dtype)
            pooled = mean_rows(history.table.to(profile.dtype), history.steps)
            user = torch.cat([pooled.unflatten(1, (-1, self.embedding)), profile], dim=1).unsqueeze(1)
            fields = queries.unflatten(2, (-1, self.embedding))
            total = user.sum(2) + fields.sum(2)
            second_order: Tensor = (total.square() - user.square().sum(2) - fields.square().sum(2)) / 2
            if self.of_query is None or self.of_user is None:
                return second_order
            deep = F.relu(self.of_query(queries) + self.of_user(user.flatten(2)))
            for layer in self.rest:
                deep = F.relu(layer(deep))
            return torch.cat([second_order, deep], dim=2)
