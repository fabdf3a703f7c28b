"""Float vectors in the type in which a store keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

Precision = Literal["float32", "float16", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}
ON_DISK = {name: np.dtype("<u2" if name == "bfloat16" else name) for name in PRECISIONS}
"""NumPy has no bfloat16: its bits are stored as unsigned integers."""


@dataclass(frozen=True)
class Vectors:
    """R stored vectors of W numbers.

    Attributes:
        values: (R, W) float32, float16, bfloat16 or int8.
        scales: (R,) float32 for int8, what one step of each row is worth; None otherwise.
    """

    values: Tensor
    scales: Tensor | None = None

    @classmethod
    def store(cls, values: Tensor, precision: Precision) -> Self:
        """(R, W) float32 vectors, each within ``limit(precision)``, rounded to the nearest value that can be kept.

        int8: the number of largest magnitude of a row is 127 steps, so that a number is off by at most half a step,
        a 254th of that magnitude.
        """
        if precision != "int8":
            return cls(values.to(TORCH[precision]).contiguous())
        scales = values.abs().amax(dim=1) / 127
        steps = values / scales.where(scales > 0, 1.0)[:, None]
        return cls(steps.round().clamp(-127, 127).to(torch.int8), scales)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def take(self, rows: Tensor) -> Tensor:
        """(K, W) float32 vectors at (K,) int64 rows."""
        values = self.values.index_select(0, rows).float()
        return values if self.scales is None else values.mul_(self.scales.index_select(0, rows)[:, None])

    def part(self, start: int, stop: int) -> Vectors:
        """The stored vectors of the rows from ``start`` to ``stop``, without a copy."""
        return Vectors(self.values[start:stop], None if self.scales is None else self.scales[start:stop])

    def pick(self, rows: Tensor) -> Vectors:
        """The stored vectors at (K,) rows as they are."""
        scales = None if self.scales is None else self.scales.index_select(0, rows)
        return Vectors(self.values.index_select(0, rows), scales)


def limit(precision: Precision) -> float:
    """The largest magnitude that is sure to be kept."""
    if precision == "int8":
        return float(torch.finfo(torch.float32).max) / 2  # 127 rounded steps stay finite, too
    return float(torch.finfo(TORCH[precision]).max)
