"""The only thing that data and models share: encoded features, ragged histories, batches.

Nothing here is padded. A history is a run of row numbers and a length, so padding can neither change a result
nor take time.

Shape letters used throughout the package: B requests, C candidates of one request in training, K candidates in
serving, R rows of a feature table, M distinct behaviours, T behaviours of all histories together, F fields,
L history length, N meta queries, H heads, P head width, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ragged:
    """R lists of integers of any length, one after the other.

    Attributes:
        values: (T,) int64, the lists joined.
        lengths: (R,) int64, summing to T.
    """

    values: Tensor
    lengths: Tensor

    @property
    def offsets(self) -> Tensor:
        """(R,) where each list begins in ``values``."""
        return torch.cumsum(self.lengths, 0) - self.lengths

    @property
    def owners(self) -> Tensor:
        """(T,) the list that each value belongs to."""
        return torch.repeat_interleave(self.lengths, output_size=self.values.numel())

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same lists with ``function`` applied to both tensors (a move to a device, for example)."""
        return type(self)(function(self.values), function(self.lengths))


@dataclass(frozen=True, slots=True)
class Features:
    """R encoded rows of one table.

    Attributes:
        columns: field name to (R,) int64 ids, or to R ragged lists of ids for a multi-valued field. Id 0 is the
            out-of-vocabulary row.
        rows: R.
    """

    columns: Mapping[str, Tensor | Ragged]
    rows: int

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same rows with ``function`` applied to every tensor."""
        columns = {
            name: column.map(function) if isinstance(column, Ragged) else function(column)
            for name, column in self.columns.items()
        }
        return type(self)(columns, self.rows)


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
    """

    user: Features
    behaviours: Features
    history: Ragged
    items: Features
    labels: Tensor

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
        )
