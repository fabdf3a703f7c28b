"""CAN's interaction unit: the query becomes a small network, which the user's fields go through (WSDM 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from prerank.batch import History, Ragged
from prerank.layers.embedding import take_rows
from prerank.layers.unit import InteractionUnit

ORDERS = 3


class CoActionUnit(InteractionUnit):
    """Micro-networks without bias, whose weights are a projection of the query; one for each field.

    A field of width d goes through it as x, x^2 and x^3, tanh after each layer but the last (CAN and its code:
    16 -> 8 -> 4). The outputs of all layers are the result, for a history field their sums over the behaviours. CAN
    learns the weights as an embedding of the candidate; a query of FIT has width D, so a linear layer makes them of
    it, as many as all fields need.
    """

    def __init__(self, query_fields: int, profile_fields: int, embedding: int, layers: Sequence[int]) -> None:
        """Build the projection.

        Args:
            query_fields: l, of a query and of a behaviour.
            profile_fields: F, of the user.
            embedding: d, of a field.
            layers: widths of the micro-networks' layers.
        """
        super().__init__()
        self.shapes = list(pairwise((embedding, *layers)))
        self.fields, self.query_fields = query_fields + profile_fields, query_fields
        self.width = self.fields * ORDERS * sum(layers)
        size = sum(inputs * outputs for inputs, outputs in self.shapes)
        self.project = nn.Linear(query_fields * embedding, self.fields * size)

    def forward(self, queries: Tensor, history: History, profile: Tensor) -> Tensor:
        """(B, C, W) from (B, C, l * d) queries and (B, F, d) profiles."""
        dtype, count = self.project.weight.dtype, self.query_fields
        with torch.autocast(queries.device.type, enabled=False):
            # (B, fields, C, all weights of a micro-network)
            weights = self.project(queries.to(dtype)).unflatten(2, (self.fields, -1)).transpose(1, 2)
            past = _side_by_side(history.table.to(dtype), history.steps).unflatten(2, (count, -1)).transpose(1, 2)
            of_history = self._sums(past, weights[:, :count])
            of_profile = self._sums(profile.to(dtype).unsqueeze(2), weights[:, count:])
            return torch.cat([of_history, of_profile], dim=1).transpose(1, 2).flatten(2)

    def _sums(self, x: Tensor, weights: Tensor) -> Tensor:
        """(B, fields, C, W / fields) the layers' outputs for (B, fields, L, d) inputs, summed over the L."""
        length, sums, start = x.shape[2], [], 0
        h = torch.cat([x.pow(order) for order in range(1, ORDERS + 1)], dim=2)
        for depth, (inputs, outputs) in enumerate(self.shapes, start=1):
            layer = weights[..., start : start + inputs * outputs].unflatten(3, (inputs, outputs))
            start += inputs * outputs
            last = depth == len(self.shapes)
            if last:  # linear, so the sum may go first
                h, length = h.unflatten(-2, (ORDERS, length)).sum(-2), 1
            h = torch.einsum("bfrd,bfcdw->bfcrw", h, layer) if depth == 1 else h @ layer
            h = h if last else torch.tanh(h)
            sums.append(h.unflatten(-2, (ORDERS, length)).sum(-2))
        return torch.cat(sums, dim=-1).flatten(3)


def _side_by_side(table: Tensor, steps: Ragged) -> Tensor:
    """(B, L, D) histories, filled up with zeros, which add exactly nothing: no layer has a bias and tanh(0) is 0."""
    lengths, owners = steps.lengths, steps.owners
    longest = int(lengths.max()) if len(lengths) else 0
    places = torch.arange(len(owners), device=owners.device) - steps.offsets[owners] + owners * longest
    filled = table.new_zeros(len(lengths) * longest, table.shape[1])
    side_by_side = filled.index_copy(0, places, take_rows(table, steps.values))
    return side_by_side.view(len(lengths), longest, table.shape[1])
