"""Working through tall tensors in blocks that stay in the cache of a CPU core.

The attention to histories works on millions of rows of a few dozen numbers, where an elementwise pass over
everything waits for memory. A chain of passes over one block after the other does not. Each core works on blocks of
its own: sharing every one of so many small operations takes more processor time, and on a busy machine the cores wait
for each other at each of them. On other devices, where each operation costs a launch, everything is one block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from prerank.batch import Ragged

Block = TypeVar("Block")

NUMBERS = 1 << 18
"""Numbers of one tensor in a block: a megabyte of float32."""


def row_blocks(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The same runs of rows of (R, ...) tensors, of which the first one sets the size."""
    if not _in_blocks(tensors[0].device):
        return [tensors]
    rows = max(NUMBERS // tensors[0].shape[1], 1)
    return list(zip(*(tensor.split(rows) for tensor in tensors), strict=True))


def in_parallel(blocks: Sequence[Block], work: Callable[[Sequence[Block]], tuple[Tensor, ...]]) -> list[Tensor]:
    """Work through blocks on as many threads as PyTorch may use, and add up what the threads return.

    Args:
        blocks: every thread gets some that follow each other, always the same ones, so that sums are reproducible.
        work: fills in what belongs to its blocks and returns sums over them.

    Returns:
        The sums of what ``work`` returned.
    """
    threads = min(torch.get_num_threads(), len(blocks))
    if threads < 2:
        return list(work(blocks))
    inference = torch.is_inference_mode_enabled()

    def share(number: int) -> tuple[Tensor, ...]:
        with torch.inference_mode(inference), torch.no_grad():  # modes belong to a thread
            return work(blocks[number * len(blocks) // threads : (number + 1) * len(blocks) // threads])

    results = list(_pool(os.getpid(), torch.get_num_threads()).map(share, range(threads)))
    return [torch.stack(parts).sum(0) for parts in zip(*results, strict=True)]


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads whose operations use one core each; a forked process needs its own."""
    del process
    started = Barrier(threads + 1)

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, "prerank-blocks", start)
    for _ in range(threads):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(threads)  # it is also the default of threads to come
    return pool


def add_column_sums(x: Tensor, total: Tensor) -> None:
    """Add the sums of the columns of (R, W) to (W,); on a CPU a product is several times as fast as ``sum``."""
    if x.device.type == "cpu":
        total.unsqueeze(0).addmm_(x.new_ones(1, len(x)), x)
    else:
        total += x.sum(0)


@dataclass(frozen=True, slots=True)
class RequestBlock:
    """Some of B requests, with C queries each and n steps of history altogether.

    There is a row for each query and step. The rows of a block follow each other query by query, so that what belongs
    to the steps is added to those of every query in one long run.

    Attributes:
        requests: b requests that follow each other.
        steps: their n steps.
        rows: their C * n rows.
        places: (C * n,) where a row's query is in a (C * B, ...) tensor.
        starts: (C * b,) the first row of each query of each request, counted from the first of the block.
    """

    requests: slice
    steps: slice
    rows: slice
    places: Tensor
    starts: Tensor

    def spread(self, queries: Tensor, out: Tensor | None = None) -> Tensor:
        """(C, B, W) to (C * n, W): its query for each row."""
        return torch.index_select(queries.flatten(0, 1), 0, self.places, out=out)

    def sums(self, rows: Tensor, count: int) -> Tensor:
        """(C * n, W) to (C, b, W): the sum of the rows of each query."""
        every = torch.arange(rows.shape[0], device=rows.device)
        sums: Tensor = F.embedding_bag(every, rows, self.starts, mode="sum")
        return sums.view(count, -1, rows.shape[1])


def request_blocks(steps: Ragged, count: int, width: int) -> list[RequestBlock]:
    """B requests with ``count`` queries each, in blocks that hold about ``NUMBERS`` numbers at ``width`` a row."""
    requests, total = steps.offsets.shape[0] - 1, steps.values.shape[0]
    size = requests
    if _in_blocks(steps.values.device):
        size = requests * NUMBERS // max(total * count * width, 1)
    size = min(max(size, 1), max(requests, 1))
    edges = steps.offsets[:-1:size].tolist() if size < requests else [0]
    owners, blocks = steps.owners, []
    runs = torch.arange(count, device=owners.device).unsqueeze(1)
    for first, start, stop in zip(range(0, max(requests, 1), size), edges, [*edges[1:], total], strict=True):
        last = min(first + size, requests)
        places = (runs * requests + owners[start:stop]).flatten()
        starts = (runs * (stop - start) + steps.offsets[first:last] - start).flatten()
        rows = slice(start * count, stop * count)
        blocks.append(RequestBlock(slice(first, last), slice(start, stop), rows, places, starts))
    return blocks


def _in_blocks(device: torch.device) -> bool:
    """A compiler makes its own loops."""
    return device.type == "cpu" and not torch.compiler.is_compiling()
