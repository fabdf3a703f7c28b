"""Random histories and queries for the tests of interaction units."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prerank.batch import History, Ragged


def history(lengths: list[int], width: int, seed: int = 0) -> History:
    """Histories over a table of ten behaviours."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *np.cumsum(lengths, dtype=np.int64).tolist()])
    values = torch.randint(0, 10, (sum(lengths),), generator=generator)
    return History(torch.randn(10, width, generator=generator, dtype=torch.float64), Ragged(values, offsets))


def normal(*shape: int, seed: int = 7) -> Tensor:
    """Queries or profiles."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lists(past: History) -> list[Tensor]:
    """The (L, D) behaviours of each request."""
    return list(past.table[past.steps.values].split(past.steps.lengths.tolist()))
