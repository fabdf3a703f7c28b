"""Ragged histories in the order in which a recurrence reads them: all first steps, all second steps, and so on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prerank.batch import Ragged


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the T steps of B histories go. The longest history comes first, so each step's rows are one run.

    Attributes:
        order: (B,) the histories, longest first.
        sizes: how many histories have a first step, a second step, ...; they are the first ones in ``order``.
        places: (T,) for each packed row, the row of ``Ragged.values`` that it holds.
        ranks: (T,) for each packed row, the place of its history in ``order``.
        before: (T - sizes[0],) for each packed row that is not a first step, the packed row of the step before it.
        last: (sizes[0],) the packed row of each non-empty history's last step, in the order of ``order``.
    """

    order: Tensor
    sizes: list[int]
    places: Tensor
    ranks: Tensor
    before: Tensor
    last: Tensor

    @property
    def filled(self) -> Tensor:
        """The histories that are not empty, longest first."""
        return self.order[: len(self.last)]

    def unpack(self, rows: Tensor) -> Tensor:
        """(sizes[0], ...) one row for each non-empty history to (B, ...); zeros where a history is empty."""
        return rows.new_zeros(len(self.order), *rows.shape[1:]).index_copy(0, self.filled, rows)


def pack(steps: Ragged) -> Packing:
    """The packing of B lists."""
    lengths, order = steps.lengths.sort(descending=True, stable=True)
    total, device = steps.values.shape[0], lengths.device
    # A list of length n has steps 0 to n - 1: the number that have step t is the number of lengths above t.
    sizes = lengths.bincount(minlength=1).flip(0).cumsum(0).flip(0)[1:]
    starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    step = torch.repeat_interleave(sizes, output_size=total)
    ranks = torch.arange(total, device=device) - starts[step]
    places = steps.offsets[:-1][order[ranks]] + step
    later = step > 0
    before = starts[step[later] - 1] + ranks[later]
    last = lengths[lengths > 0] - 1
    last = starts[last] + torch.arange(len(last), device=device)
    return Packing(order, sizes.tolist(), places, ranks, before, last)
