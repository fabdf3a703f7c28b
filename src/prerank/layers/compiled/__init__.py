"""The attention to histories compiled by Numba, for float32 on a CPU: a chain of tensor operations waits for memory.

What is here does what the PyTorch operations of ``dice``, ``interaction`` and ``pooling`` do, with gradients, a few
rows at a time, so that everything in between stays in a core's cache. Without Numba, on other devices and in other
precisions those serve, which are also what this is tested against.

The functions take flat loops literally: no bounds are checked. The compiled code is cached beside the files or in the
user's cache directory (NUMBA_CACHE_DIR names another one).
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

FEWEST = 1 << 12
"""Rows below which nothing is compiled outside training: a single request does not wait for a compiler."""


def usable(x: Tensor, rows: int) -> bool:
    """Whether work on so many rows of such a tensor goes to the compiled functions."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and (rows >= FEWEST or (rows > 0 and torch.is_grad_enabled()))
        and not torch.compiler.is_compiling()
        and _installed()
    )


@cache
def _installed() -> bool:
    return find_spec("numba") is not None
