"""Embedding tables of a side's fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

import torch
from torch import Tensor, nn

from prerank.batch import Features, Ragged
from prerank.layers.autodis import AutoDisWeights
from prerank.layers.pooling import mean_rows
from prerank.schema import AutoDis, Scaled, Values


class FieldEmbeddings(nn.Module):
    """One table per field, all of one width.

    An id takes its row, a multi-valued field the mean of its values' rows, a scaled number that multiple of row 1,
    an AutoDis number a mixture of the rows from 1 on. Row 0, the out-of-vocabulary row, starts at zero, so that an
    unknown value adds nothing until rare or missing training values teach it otherwise.
    """

    def __init__(self, fields: Mapping[str, Values], width: int, std: float) -> None:
        """Draw the tables from N(0, std^2).

        Args:
            fields: what the column of each field holds.
            width: embedding width d.
            std: standard deviation at the start; 1e-4 serves FIT best (it keeps the soft query flat at first).
        """
        super().__init__()
        self.positions = {name: position for position, name in enumerate(fields)}
        self.width = width
        self.found: list[Tensor] = []
        self.tables = nn.ParameterList(torch.randn(_rows(values), width) * std for values in fields.values())
        self.weightings = nn.ModuleDict(
            {
                str(self.positions[name]): AutoDisWeights(values.embeddings, values.temperature)
                for name, values in fields.items()
                if isinstance(values, AutoDis)
            }
        )
        with torch.no_grad():
            for table in self.tables:
                table[0].zero_()

    def forward(self, features: Features, names: Sequence[str] | None = None) -> Tensor:
        """(R, F * d): the embeddings of the named fields (all by default), concatenated in their order."""
        return torch.cat([self._field(name, features.columns[name]) for name in names or self.positions], dim=-1)

    def folded(self) -> FieldEmbeddings:
        """The same with tables that are found at once, which is what one row of a request mostly waits for."""
        fixed = copy(self)
        fixed.found = list(self.tables)
        return fixed

    def _field(self, name: str, column: Tensor | Ragged) -> Tensor:
        weight = (self.found or self.tables)[self.positions[name]]
        if isinstance(column, Ragged):
            return mean_rows(weight, column)
        if column.is_floating_point():
            mixed: Tensor = self._weights(str(self.positions[name]), column) @ weight
            return mixed
        return take_rows(weight, column)

    def _weights(self, position: str, numbers: Tensor) -> Tensor:
        """(R, rows of the table) what the rows are multiplied with; a missing number takes row 0 alone."""
        missing = numbers.isnan().unsqueeze(1)
        known = numbers.nan_to_num()
        weights = self.weightings[position](known) if position in self.weightings else known.unsqueeze(1)
        return torch.cat([missing.to(weights.dtype), weights * ~missing], dim=-1)


def embedding_tables(module: nn.Module) -> list[nn.Parameter]:
    """The tables of all fields within a module."""
    return [table for part in module.modules() if isinstance(part, FieldEmbeddings) for table in part.tables]


def _rows(values: Values) -> int:
    """Rows of a field's table."""
    match values:
        case AutoDis(embeddings=embeddings):
            return 1 + embeddings
        case Scaled():
            return 2
        case int():
            return values


def take_rows(table: Tensor, rows: Tensor) -> Tensor:
    """(n, D) the rows of a (M, D) table: F.embedding, but its gradient on a CPU takes a fifth of the time."""
    if not torch.is_grad_enabled():
        return table.index_select(0, rows)
    return table.gather(0, rows.unsqueeze(1).expand(-1, table.shape[1]))
