"""Dice and the linear layer after it (``layers.dice``), compiled: a tile of rows at a time, in a core's first cache.

Everything compiled works on rows ``start`` to ``stop``, so that threads can share them. Shape letters: R rows,
W channels, O outputs; x, d_x, out and d_out are matrices of R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prerank.layers.blocks import in_parallel, shares
from prerank.layers.compiled.base import LOG2_E, compiled, gate
from prerank.layers.compiled.products import add_product

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


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each column of (R, W), as ``layers.dice`` has them."""
    shift = x[:FIRST].mean(0)

    def add_up(rows: Sequence[slice]) -> tuple[Tensor, ...]:
        sums, squares = torch.zeros(2, x.shape[1], dtype=torch.float64)
        for some in rows:
            _add_moments(x.numpy(), some.start, some.stop, shift.numpy(), sums.numpy(), squares.numpy())
        return sums, squares

    sums, squares = in_parallel(shares(len(x)), add_up)
    mean, square = sums / len(x), squares / len(x)
    return (shift + mean).to(x.dtype), (square - mean.square()).to(x.dtype)


def dice_linear(x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """(R, O) = Linear(Dice(x)) for given mean and 1 / standard deviation."""
    out = x.new_empty(len(x), len(weight))
    arrays = [tensor.numpy() for tensor in (alpha, weight.T.contiguous(), bias, mean, rstd, out)]

    def fill(rows: Sequence[slice]) -> tuple[Tensor, ...]:
        for some in rows:
            _forward(x.numpy(), some.start, some.stop, *arrays)
        return ()

    in_parallel(shares(len(x)), fill)
    return out


def dice_linear_backward(
    x: Tensor, alpha: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, grad: Tensor, d_x: Tensor
) -> tuple[Tensor, ...]:
    """Fill in ``d_x`` as if mean and deviation were constants; gradients of weight and alpha, two sums of dz."""
    arrays = [tensor.numpy() for tensor in (alpha, weight, mean, rstd, grad, d_x)]

    def differentiate(rows: Sequence[slice]) -> tuple[Tensor, ...]:
        sums = (torch.zeros_like(weight), *x.new_zeros(3, x.shape[1]))
        for some in rows:
            _backward(x.numpy(), some.start, some.stop, *arrays, *(each.numpy() for each in sums))
        return sums

    return tuple(in_parallel(shares(len(x)), differentiate))


def subtract_line(d_x: Tensor, x: Tensor, level: Tensor, tilt: Tensor) -> None:
    """``d_x`` -= level + tilt * x: what mean and variance of the batch take of the gradient."""

    def correct(rows: Sequence[slice]) -> tuple[Tensor, ...]:
        for some in rows:
            _subtract_line(d_x.numpy(), x.numpy(), some.start, some.stop, level.numpy(), tilt.numpy())
        return ()

    in_parallel(shares(len(x)), correct)
