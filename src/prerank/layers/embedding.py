"""Embedding tables of a side's fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prerank.batch import Features, Ragged


class FieldEmbeddings(nn.Module):
    """One table per field, all of one width; a multi-valued field is the mean of its values' embeddings.

    Row 0, the out-of-vocabulary row, starts at zero, so that an unknown value adds nothing until rare training
    values (``Field.min_count``) teach it otherwise.
    """

    def __init__(self, sizes: Mapping[str, int], width: int, std: float) -> None:
        """Draw the tables from N(0, std^2).

        Args:
            sizes: number of ids of each field.
            width: embedding width d.
            std: standard deviation at the start; 1e-4 serves FIT best (it keeps the soft query flat at first).
        """
        super().__init__()
        self.positions = {name: position for position, name in enumerate(sizes)}
        self.width = width
        self.tables = nn.ParameterList(torch.randn(size, width) * std for size in sizes.values())
        with torch.no_grad():
            for table in self.tables:
                table[0].zero_()

    def forward(self, features: Features, names: Sequence[str] | None = None) -> Tensor:
        """(R, F * d): the embeddings of the named fields (all by default), concatenated in their order."""
        return torch.cat([self._field(name, features.columns[name]) for name in names or self.positions], dim=-1)

    def _field(self, name: str, column: Tensor | Ragged) -> Tensor:
        weight = self.tables[self.positions[name]]
        if isinstance(column, Ragged):
            return F.embedding_bag(column.values, weight, column.offsets, mode="mean", include_last_offset=True)
        return F.embedding(column, weight)
