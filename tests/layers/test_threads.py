"""Compiled work in shares: the edges by hand, the same sums however many threads, no thread where none may be."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numba import get_num_threads, prange

from prerank.batch import Ragged
from prerank.layers.compiled import threads
from prerank.layers.compiled.threads import in_shares, per_share, request_shares, row_shares


@in_shares
def add_up(edges: Any, x: Any, sums: Any) -> None:
    """Add the numbers of each share to its sum."""
    for n in prange(len(edges) - 1):
        for r in range(edges[n], edges[n + 1]):
            sums[n] += x[r]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def total(rows: int) -> float:
    x = torch.arange(rows, dtype=torch.float64)
    edges = row_shares(rows)
    sums = per_share(edges, x.new_empty(()))
    add_up(edges, x.numpy(), sums.numpy())
    return float(sums.sum())


def test_rows_are_cut_evenly() -> None:
    torch.set_num_threads(3)
    assert row_shares(10).tolist() == [0, 3, 6, 10]
    assert row_shares(2).tolist() == [0, 1, 2]  # not more shares than rows
    assert row_shares(0).tolist() == [0, 0]


def test_requests_are_cut_by_their_behaviours() -> None:
    """Lengths 6, 1, 1, 4: twelve behaviours, so the first request alone is one half."""
    torch.set_num_threads(2)
    steps = Ragged(torch.zeros(12, dtype=torch.int64), torch.tensor([0, 6, 7, 8, 12]))
    assert request_shares(steps).tolist() == [0, 1, 4]
    torch.set_num_threads(1)
    assert request_shares(steps).tolist() == [0, 4]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("rows", [0, 1, 7, 1000])
def test_threads_add_up_the_same(count: int, rows: int) -> None:
    torch.set_num_threads(count)
    assert total(rows) == rows * (rows - 1) / 2


def test_the_number_of_threads_that_numba_takes_elsewhere_stays() -> None:
    before = get_num_threads()
    torch.set_num_threads(2)
    total(100)
    assert get_num_threads() == before


def test_without_open_mp_the_caller_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Numba finds no library: a start that fails is no failure of the work."""

    def missing(_: int) -> int:
        raise ValueError("No threading layer could be loaded.")

    monkeypatch.setattr(threads, "_start", missing)
    threads._open_mp.cache_clear()
    torch.set_num_threads(2)
    try:
        assert total(1000) == 499500
        assert not threads._open_mp()
    finally:
        monkeypatch.undo()
        threads._open_mp.cache_clear()


def _put_total(answers: Any) -> None:
    torch.set_num_threads(2)
    answers.put(total(1000))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_does_without_threads() -> None:
    """OpenMP would end the process there: the parent has used it, and its threads are not in the child."""
    torch.set_num_threads(2)
    assert total(1000) == 499500
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_put_total, args=(answers,))
    child.start()
    assert answers.get(timeout=60) == 499500
    child.join(timeout=60)
    assert child.exitcode == 0


def test_a_share_has_a_tensor_of_its_own() -> None:
    zeros = per_share(np.array([0, 2, 3]), torch.ones(4, 5))
    assert zeros.shape == (2, 4, 5)
    assert not zeros.any()
