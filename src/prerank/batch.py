"""The only thing that data and models share: encoded features, ragged histories, batches.

Nothing here is padded. A history is a run of row numbers and a length, so padding can neither change a result
nor take time.

Shape letters used throughout the package: B requests, C candidates of one request in training, K candidates in
serving, R rows of a feature table, M distinct behaviours, T behaviours of all histories together, F fields,
L history length, N meta queries, H heads, P head width, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ragged:
    """R lists of integers of any length, one after the other.

    Attributes:
        values: (T,) int64, the lists joined.
        offsets: (R + 1,) int64, where each list begins, and T.
    """

    values: Tensor
    offsets: Tensor

    @property
    def lengths(self) -> Tensor:
        """(R,) how long each list is."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def owners(self) -> Tensor:
        """(T,) the list that each value belongs to."""
        return torch.repeat_interleave(self.lengths, output_size=self.values.numel())

    @property
    def from_end(self) -> Tensor:
        """(T,) how many values follow each value in its list: 0 for the last one, the most recent of a history."""
        ends = torch.repeat_interleave(self.offsets[1:], self.lengths, output_size=self.values.numel())
        return ends - 1 - torch.arange(len(ends), device=ends.device)

    def take(self, rows: Tensor) -> Self:
        """The lists at ``rows``, which may repeat."""
        starts = self.offsets.index_select(0, rows)
        lengths = self.offsets.index_select(0, rows + 1) - starts
        offsets = torch.zeros(len(rows) + 1, dtype=torch.int64, device=rows.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        first = torch.repeat_interleave(starts - offsets[:-1], lengths)
        places = first + torch.arange(len(first), device=rows.device)
        return type(self)(self.values.index_select(0, places), offsets)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same lists with ``function`` applied to both tensors (a move to a device, for example)."""
        return type(self)(function(self.values), function(self.offsets))


@dataclass(frozen=True, slots=True)
class Features:
    """R encoded rows of one table.

    Attributes:
        columns: field name to (R,) int64 ids, to R ragged lists of ids for a multi-valued field, or to (R,) float32
            numbers. Id 0 and NaN stand for an unknown or missing value.
        rows: R.
    """

    columns: Mapping[str, Tensor | Ragged]
    rows: int

    def take(self, rows: Tensor) -> Self:
        """The rows at the given (n,) positions, which may repeat."""
        columns = {
            name: column.take(rows) if isinstance(column, Ragged) else column.index_select(0, rows)
            for name, column in self.columns.items()
        }
        return type(self)(columns, len(rows))

    def beside(self, other: Self | None) -> Self:
        """The same rows with the columns of ``other`` added."""
        return self if other is None else type(self)({**self.columns, **other.columns}, self.rows)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same rows with ``function`` applied to every tensor."""
        columns = {
            name: column.map(function) if isinstance(column, Ragged) else function(column)
            for name, column in self.columns.items()
        }
        return type(self)(columns, self.rows)


def joined(parts: Sequence[Features]) -> Features:
    """The rows of all parts, one part after the other."""
    columns: dict[str, Tensor | Ragged] = {}
    for name, first in parts[0].columns.items():
        pieces = [part.columns[name] for part in parts]
        values = torch.cat([piece.values if isinstance(piece, Ragged) else piece for piece in pieces])
        if isinstance(first, Ragged):
            lengths = torch.cat(
                [torch.zeros(1, dtype=torch.int64), *(p.lengths for p in pieces if isinstance(p, Ragged))]
            )
            columns[name] = Ragged(values, lengths.cumsum(0))
        else:
            columns[name] = values
    return Features(columns, sum(part.rows for part in parts))


@dataclass(frozen=True, slots=True)
class History:
    """B behaviour histories, oldest first, as a model's user side reads them.

    Attributes:
        table: (M, D) embeddings of behaviours: of a batch's distinct ones in training, of the store in serving.
        steps: B ragged lists of row numbers of ``table``.
    """

    table: Tensor
    steps: Ragged


@dataclass(frozen=True, slots=True)
class Batch:
    """B requests with C candidates each, which is also the shape of serving (one request, K candidates).

    A positive and its negatives are candidates of one request, so whatever depends on the user alone is computed
    once for them.

    Attributes:
        user: B rows of user and context fields.
        behaviours: M distinct behaviours that occur in the histories.
        history: B ragged lists of row numbers of ``behaviours``, oldest first.
        items: B * C rows of item fields, the candidates of the first request first.
        labels: (B, C) float32, 1 for positive.
        pairs: B * C rows of pair fields, in the order of ``items``; None where the data has none.
        grades: (B, C) float32, how far each candidate came, the higher the further; None where the log has no stages.
    """

    user: Features
    behaviours: Features
    history: Ragged
    items: Features
    labels: Tensor
    pairs: Features | None = None
    grades: Tensor | None = None

    def to(self, device: torch.device) -> Self:
        """The same batch on ``device``."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return type(self)(
            self.user.map(move),
            self.behaviours.map(move),
            self.history.map(move),
            self.items.map(move),
            move(self.labels),
            None if self.pairs is None else self.pairs.map(move),
            None if self.grades is None else move(self.grades),
        )
