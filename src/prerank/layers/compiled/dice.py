"""Dice and the linear layer after it (``layers.dice``), compiled: a tile of rows at a time, in a core's first cache.

Everything compiled works on rows ``start`` to ``stop``, so that threads can share them. Shape letters: R rows,
W channels, O outputs; x, d_x, out and d_out are matrices of R rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from prerank.layers.compiled.base import LOG2_E, compiled, gate
from prerank.layers.compiled.products import add_product
from prerank.layers.compiled.threads import arrays, in_shares, per_share, row_shares

TILE = 64  # rows
FIRST = 1024  # rows whose mean the distances are counted from

_ZERO, _ONE, _LOG2_E = np.float32(0), np.float32(1), np.float32(LOG2_E)


@compiled
def _add_moments(x: Any, start: int, stop: int, shift: Any, sums: Any, squares: Any) -> None:
    """Add the columns' sums of x - shift and of its squares to ``sums`` and ``squares``, (W,) float64."""
    width = x.shape[1]
    some, some_squares = np.empty(width, dtype=np.float32), np.empty(width, dtype=np.float32)
    for first in range(start, stop, TILE):
        some[:] = _ZERO
        some_squares[:] = _ZERO
        for r in range(first, min(first + TILE, stop)):
            for h in range(width):
                distance = x[r, h] - shift[h]
                some[h] += distance
                some_squares[h] += distance * distance
        for h in range(width):
            sums[h] += some[h]
            squares[h] += some_squares[h]


@compiled
def _forward(x: Any, start: int, stop: int, alpha: Any, weight: Any, bias: Any, mean: Any, rstd: Any, out: Any) -> None:
    """``out`` = Linear(Dice(x)), with the transposed (W, O) weight."""
    width, outputs = weight.shape
    flat_weight, flat_out = weight.reshape(-1), out.reshape(-1)
    y = np.empty((TILE, width), dtype=np.float32)
    flat_y = y.reshape(-1)
    slope, shift = -rstd * _LOG2_E, mean * rstd * _LOG2_E
    for first in range(start, stop, TILE):
        count = min(TILE, stop - first)
        for r in range(count):
            for h in range(width):
                value = x[first + r, h]
                g = gate(value * slope[h] + shift[h])
                y[r, h] = value * (alpha[h] + (_ONE - alpha[h]) * g)
        if outputs == 1:
            for r in range(count):
                total = bias[0]
                for h in range(width):
                    total += y[r, h] * flat_weight[h]
                out[first + r, 0] = total
        else:
            for r in range(count):
                for o in range(outputs):
                    out[first + r, o] = bias[o]
            add_product(
                flat_y, 0, width, 1, flat_weight, 0, outputs, flat_out, first * outputs, outputs, count, width, outputs
            )


@compiled
def _backward(
    x: Any, start: int, stop: int, alpha: Any, weight: Any, mean: Any, rstd: Any, d_out: Any, d_x: Any,
    d_weight: Any, d_alpha: Any, sum_dz: Any, sum_dz_z: Any,
) -> None:  # fmt: skip
    """Fill in ``d_x`` for given mean and 1 / standard deviation, and add to the sums.

    Args:
        x, start, stop, alpha, mean, rstd, d_out: as in ``_forward``.
        weight: (O, W).
        d_x: (R, W).
        d_weight: (O, W).
        d_alpha, sum_dz, sum_dz_z: (W,); dz is the gradient of the normalised x without its factor 1 - alpha.
    """
    outputs, width = weight.shape
    flat_weight, flat_grad, flat_d_weight = weight.reshape(-1), d_out.reshape(-1), d_weight.reshape(-1)
    y, d_y = np.empty((TILE, width), dtype=np.float32), np.empty((TILE, width), dtype=np.float32)
    flat_y, flat_d_y = y.reshape(-1), d_y.reshape(-1)
    some = np.empty((3, width), dtype=np.float32)
    slope, shift, factor = -rstd * _LOG2_E, mean * rstd * _LOG2_E, (_ONE - alpha) * rstd
    for first in range(start, stop, TILE):
        count = min(TILE, stop - first)
        d_y[:count] = _ZERO
        add_product(
            flat_grad, first * outputs, outputs, 1, flat_weight, 0, width, flat_d_y, 0, width, count, outputs, width
        )
        some[:] = _ZERO
        for r in range(count):
            for h in range(width):
                value, d = x[first + r, h], d_y[r, h]
                z = (value - mean[h]) * rstd[h]
                g = gate(value * slope[h] + shift[h])
                rate = alpha[h] + (_ONE - alpha[h]) * g
                y[r, h] = rate * value
                dz = d * value * (_ONE - g)
                some[0, h] += dz
                dz *= g
                some[1, h] += dz
                some[2, h] += dz * z
                d_x[first + r, h] = d * rate + dz * factor[h]
        for h in range(width):
            d_alpha[h] += some[0, h]
            sum_dz[h] += some[1, h]
            sum_dz_z[h] += some[2, h]
        add_product(
            flat_grad, first * outputs, 1, outputs, flat_y, 0, width, flat_d_weight, 0, width, outputs, count, width
        )


@compiled
def _subtract_line(d_x: Any, x: Any, start: int, stop: int, level: Any, tilt: Any) -> None:
    for r in range(start, stop):
        for h in range(x.shape[1]):
            d_x[r, h] -= level[h] + tilt[h] * x[r, h]


@in_shares
def _add_all_moments(edges: Any, x: Any, shift: Any, sums: Any, squares: Any) -> None:
    for n in prange(len(edges) - 1):
        _add_moments(x, edges[n], edges[n + 1], shift, sums[n], squares[n])


@in_shares
def _forward_all(
    edges: Any, x: Any, alpha: Any, weight: Any, bias: Any, mean: Any, rstd: Any, out: Any
) -> None:  # fmt: skip
    for n in prange(len(edges) - 1):
        _forward(x, edges[n], edges[n + 1], alpha, weight, bias, mean, rstd, out)


@in_shares
def _backward_all(
    edges: Any, x: Any, alpha: Any, weight: Any, mean: Any, rstd: Any, d_out: Any, d_x: Any, d_weight: Any, sums: Any
) -> None:
    for n in prange(len(edges) - 1):
        _backward(
            x, edges[n], edges[n + 1], alpha, weight, mean, rstd, d_out, d_x, d_weight[n], sums[n, 0], sums[n, 1],
            sums[n, 2],
        )  # fmt: skip


@in_shares
def _subtract_everywhere(edges: Any, d_x: Any, x: Any, level: Any, tilt: Any) -> None:
    for n in prange(len(edges) - 1):
        _subtract_line(d_x, x, edges[n], edges[n + 1], level, tilt)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each column of (R, W), as ``layers.dice`` has them."""
    shift, edges = x[:FIRST].mean(0), row_shares(len(x))
    sums, squares = torch.zeros(2, len(edges) - 1, x.shape[1], dtype=torch.float64)
    _add_all_moments(edges, x.numpy(), shift.numpy(), sums.numpy(), squares.numpy())
    mean, square = sums.sum(0) / len(x), squares.sum(0) / len(x)
    return (shift + mean).to(x.dtype), (square - mean.square()).to(x.dtype)


def dice_linear(x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """(R, O) = Linear(Dice(x)) for given mean and 1 / standard deviation."""
    out = x.new_empty(len(x), len(weight))
    _forward_all(row_shares(len(x)), *arrays(x, alpha, weight.T.contiguous(), bias, mean, rstd, out))
    return out


def dice_linear_backward(
    x: Tensor, alpha: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, grad: Tensor, d_x: Tensor
) -> tuple[Tensor, ...]:
    """Fill in ``d_x`` as if mean and deviation were constants; gradients of weight and alpha, two sums of dz."""
    edges = row_shares(len(x))
    d_weight, sums = per_share(edges, weight), per_share(edges, x.new_empty(3, x.shape[1]))
    _backward_all(edges, *arrays(x, alpha, weight, mean, rstd, grad, d_x, d_weight, sums))
    return (d_weight.sum(0), *sums.sum(0))


def subtract_line(d_x: Tensor, x: Tensor, level: Tensor, tilt: Tensor) -> None:
    """``d_x`` -= level + tilt * x: what mean and variance of the batch take of the gradient."""
    _subtract_everywhere(row_shares(len(x)), *arrays(d_x, x, level, tilt))
