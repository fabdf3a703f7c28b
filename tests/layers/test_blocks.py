"""Blocks cover everything once and in order, however small they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prerank.batch import Ragged
from prerank.layers import blocks
from prerank.layers.blocks import add_column_sums, in_parallel, request_blocks, row_blocks


def ragged(lengths: list[int]) -> Ragged:
    """Lists of the given lengths, their values counted through."""
    return Ragged(torch.arange(sum(lengths)), torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()]))


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 60))
def test_row_blocks_are_the_tensor_in_order(rows: int, numbers: int) -> None:
    x, y = torch.randn(rows, 3), torch.randn(rows, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "NUMBERS", numbers)
        parts = list(row_blocks(x, y))
    assert torch.equal(torch.cat([part for part, _ in parts]), x)
    assert torch.equal(torch.cat([part for _, part in parts]), y)
    assert all(len(part) <= max(1, numbers // 3) for part, _ in parts)


@pytest.fixture
def threads() -> Iterator[int]:
    """PyTorch may use three threads, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def doubled(x: Tensor, inference: bool = False) -> tuple[Tensor, Tensor]:
    """Twice x, and the sums of its columns, in blocks."""
    with torch.inference_mode(inference):
        out = torch.empty_like(x)

        def work(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            assert torch.is_inference_mode_enabled() == inference
            total = x.new_zeros(x.shape[1])
            for rows, result in parts:
                torch.mul(rows, 2, out=result)
                total += rows.sum(0)
            return (total,)

        (total,) = in_parallel(row_blocks(x.detach(), out), work)
    return out, total


@pytest.mark.parametrize("numbers", [4, 40, 10**6])
@pytest.mark.parametrize("inference", [False, True])
def test_threads_share_the_blocks(threads: int, numbers: int, inference: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block once, sums complete and the same bit for bit each time; the caller's threads stay as they were."""
    monkeypatch.setattr(blocks, "NUMBERS", numbers)
    x = torch.randn(57, 4, requires_grad=True)
    out, total = doubled(x, inference)
    assert torch.equal(out, 2 * x)
    torch.testing.assert_close(total, x.detach().sum(0))
    assert all(torch.equal(doubled(x, inference)[1], total) for _ in range(20))
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("threads")
def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "NUMBERS", 8)

    def fail(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        raise MemoryError(str(len(parts)))

    with pytest.raises(MemoryError):
        in_parallel(row_blocks(torch.ones(9, 8)), fail)


def test_column_sums_add_to_a_total() -> None:
    total = torch.tensor([1.0, 2.0])
    add_column_sums(torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]), total)
    assert total.tolist() == [7.0, 62.0]


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=12), st.integers(1, 3), st.integers(1, 60))
def test_request_blocks_spread_and_sum_by_request(lengths: list[int], count: int, numbers: int) -> None:
    steps = ragged(lengths)
    queries = torch.randn(count, len(lengths), 2, dtype=torch.float64)
    x = torch.randn(count, sum(lengths), 2, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "NUMBERS", numbers)
        parts = request_blocks(steps, count, 2)
    owners = torch.tensor([request for request, length in enumerate(lengths) for _ in range(length)], dtype=torch.int64)
    for part in parts:
        assert torch.equal(part.spread(queries), queries[:, owners[part.steps]].flatten(0, 1))
        assert (part.rows.start, part.rows.stop) == (part.steps.start * count, part.steps.stop * count)
    sums = torch.cat([part.sums(x[:, part.steps].flatten(0, 1), count) for part in parts], dim=1)
    expected = [one.sum(1) for one in x.split(lengths, dim=1)] if lengths else []
    torch.testing.assert_close(sums, torch.stack(expected, dim=1) if expected else x.new_zeros(count, 0, 2))
    for kind in ("requests", "steps"):
        edges = [getattr(part, kind) for part in parts]
        assert [edge.start for edge in edges[1:]] == [edge.stop for edge in edges[:-1]]
        assert (edges[0].start, edges[-1].stop) == (0, len(lengths) if kind == "requests" else sum(lengths))


def test_small_work_is_one_block_and_large_work_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "NUMBERS", 100_000)
    steps = ragged([50] * 100)
    assert len(request_blocks(steps, 1, 1)) == 1
    assert len(request_blocks(steps, 2, 64)) == 7  # 15 requests of 6,400 numbers each
