"""Embedding tables of a side's fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from prerank.batch import Features, Ragged
from prerank.layers.pooling import mean_rows


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
            return mean_rows(weight, column)
        return take_rows(weight, column)


def take_rows(table: Tensor, rows: Tensor) -> Tensor:
    """(n, D) the rows of a (M, D) table: F.embedding, but its gradient on a CPU takes a fifth of the time."""
    return table.gather(0, rows.unsqueeze(1).expand(-1, table.shape[1]))
