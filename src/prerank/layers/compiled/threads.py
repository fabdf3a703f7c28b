"""Shares of compiled work on several threads: those of OpenMP, which PyTorch's own operations use, too.

Threads of the interpreter would get in their way. OpenMP's wait for more work by turning in a circle, on cores that
others then want, and once there are more threads than cores they sleep instead, which makes each small operation late.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prerank.batch import Ragged

Edges = NDArray[np.int64]
"""(S + 1,) where each of S shares begins, and where the last one ends."""

_MAKER = os.getpid()
_NUMBA: Any = numba  # some of its names have no types


def in_shares(work: Callable[..., None]) -> Callable[..., None]:
    """Compile a loop by ``prange`` over shares, which calls a compiled function for each, for several threads.

    Its first argument are the edges. One share is worked on by the caller, without a thread; so are all of them where
    there is no OpenMP, and in a forked process, whose parent's threads OpenMP would miss.
    """
    together = numba.njit(parallel=True, nogil=True, cache=True)(work)

    @wraps(work)
    def run(edges: Edges, *arguments: Any) -> None:
        count = len(edges) - 1
        if count == 1 or os.getpid() != _MAKER or not _open_mp():
            work(edges, *arguments)
            return
        before = numba.get_num_threads()
        numba.set_num_threads(min(count, _most()))
        try:
            together(edges, *arguments)
        finally:
            numba.set_num_threads(before)

    return run


def row_shares(rows: int) -> Edges:
    """Rows cut into as many equal shares as PyTorch may use threads."""
    return np.linspace(0, rows, min(torch.get_num_threads(), max(rows, 1)) + 1).astype(np.int64)


def request_shares(steps: Ragged) -> Edges:
    """Requests cut into runs with about as many behaviours, one for each thread."""
    threads, requests = torch.get_num_threads(), len(steps.offsets) - 1
    wanted = torch.arange(1, threads) * (len(steps.values) / threads)
    inner = torch.searchsorted(steps.offsets, wanted.long()).clamp(max=requests)
    return np.array([0, *inner.tolist(), requests], dtype=np.int64)


def per_share(edges: Edges, like: Tensor) -> Tensor:
    """(S, ...) zeros, for each share a tensor to add to; the shares' sum is the result, and always the same."""
    return like.new_zeros(len(edges) - 1, *like.shape)


def arrays(*tensors: Tensor) -> list[NDArray[Any]]:
    """The memory of tensors, as compiled functions take it."""
    return [tensor.numpy() for tensor in tensors]


def _most() -> int:
    most: int = _NUMBA.config.NUMBA_NUM_THREADS
    return most


@cache
def _open_mp() -> bool:
    """Whether Numba can start OpenMP's threads. It chooses once for a process, so others may have chosen before."""
    if _NUMBA.config.THREADING_LAYER == "default":
        _NUMBA.config.THREADING_LAYER = "omp"
    try:
        _start(2)
    except ValueError:  # Numba does not find the library
        return False
    return bool(_NUMBA.threading_layer() == "omp")


@numba.njit(parallel=True, cache=True)
def _start(threads: int) -> int:
    started = 0
    for _ in numba.prange(threads):
        started += 1
    return started
