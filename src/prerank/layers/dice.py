"""Dice, DIN's activation, together with the linear layer that always follows it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from prerank.layers import compiled
from prerank.layers.blocks import add_column_sums, in_parallel, row_blocks


class DiceLinear(nn.Module):
    """Linear(Dice(x)) with Dice(x) = g * x + (1 - g) * alpha * x and g = sigmoid(BatchNorm(x)) (DIN).

    BatchNorm has neither scale nor shift; alpha is learned for each channel, 0 at first. In training the statistics
    are those of the rows given, and only real positions of a history are given. Running statistics, for evaluation,
    follow as in nn.BatchNorm1d. The activation is never stored: the backward pass computes it again.
    """

    eps = 1e-8
    momentum = 0.1
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.linear = nn.Linear(channels, outputs)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(R, channels) to (R, outputs); a single row has no variance and is normalised as in evaluation."""
        of_batch = self.training and len(x) > 1
        way = _way(x)
        mean, var = way.moments(x.detach()) if of_batch else (self.running_mean, self.running_var)
        if of_batch:
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (len(x) / (len(x) - 1)), self.momentum)
        linear, rstd = self.linear, torch.rsqrt(var + self.eps)
        out: Tensor = _DiceLinear.apply(x, self.alpha, linear.weight, linear.bias, mean, rstd, of_batch, way)  # type: ignore[no-untyped-call]
        return out


class _DiceLinear(torch.autograd.Function):
    """The formula of DiceLinear, given mean and 1 / standard deviation.

    ``of_batch`` says that these two are those of x itself, through which the gradient then flows too.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, of_batch: bool,
        way: _Way,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, alpha, weight, mean, rstd)
        ctx.of_batch, ctx.way = of_batch, way
        return way.dice_linear(x, alpha, weight, bias, mean, rstd)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha, weight, mean, rstd = ctx.saved_tensors
        way: _Way = ctx.way
        grad, d_x = grad.contiguous(), torch.empty_like(x)
        d_weight, d_alpha, sum_dz, sum_dz_z = way.dice_linear_backward(x, alpha, weight, mean, rstd, grad, d_x)
        if ctx.of_batch:  # less what mean and variance take: factor * (mean(dz) + z * mean(dz * z))
            factor = (1 - alpha) * rstd
            tilt = factor * rstd * sum_dz_z / len(x)
            level = factor * sum_dz / len(x) - mean * tilt
            way.subtract_line(d_x, x, level, tilt)
        return d_x, d_alpha, d_weight, grad.sum(0), None, None, None, None


class _Way(Protocol):
    """Who computes: the functions below, or those of ``compiled.dice``, which do the same."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each column of (R, W)."""

    def dice_linear(self, x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        """(R, O) of (R, W), for given mean and 1 / standard deviation."""

    def dice_linear_backward(
        self, x: Tensor, alpha: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, grad: Tensor, d_x: Tensor
    ) -> Sequence[Tensor]:
        """Fill in ``d_x`` as if mean and deviation were constants.

        Returns:
            The gradients of weight and alpha, and the sums of dz and of dz * z, with the normalised z and its gradient
            dz without the factor 1 - alpha.
        """

    def subtract_line(self, d_x: Tensor, x: Tensor, level: Tensor, tilt: Tensor) -> None:
        """``d_x`` -= level + tilt * x."""


def _way(x: Tensor) -> _Way:
    if compiled.usable(x, len(x)):
        return cast("_Way", import_module("prerank.layers.compiled.dice"))  # which imports Numba
    return _Blocks()


class _Blocks:
    """By PyTorch's operations, in blocks that stay in the cache."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each column of (R, W), in one pass.

        The squares are those of distances from the mean of the first block, so a large mean costs no precision.
        """
        blocks = row_blocks(x)
        shift = blocks[0][0].mean(0)

        def add_up(blocks: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            total, squares = x.new_zeros(2, x.shape[1])
            for (rows,) in blocks:
                distance = rows - shift
                add_column_sums(distance, total)
                add_column_sums(distance.square_(), squares)
            return total, squares

        total, squares = in_parallel(blocks, add_up)
        mean = total / len(x)
        return shift + mean, squares / len(x) - mean.square()

    def dice_linear(self, x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        """See _Way."""
        out = x.new_empty(x.shape[0], weight.shape[0])
        shift, rest = -mean * rstd, 1 - alpha

        def fill(blocks: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            for rows, result in blocks:
                gate = torch.addcmul(shift, rows, rstd).sigmoid_()
                y = torch.addcmul(alpha, gate, rest, out=gate).mul_(rows)
                torch.addmm(bias, y, weight.T, out=result)
            return ()

        in_parallel(row_blocks(x, out), fill)
        return out

    def dice_linear_backward(
        self, x: Tensor, alpha: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, grad: Tensor, d_x: Tensor
    ) -> Sequence[Tensor]:
        """With y = Dice(x) = slope * x, slope = alpha + (1 - alpha) * g and z = the normalised x."""
        shift, rest, factor = -mean * rstd, 1 - alpha, (1 - alpha) * rstd

        def differentiate(blocks: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            d_weight = torch.zeros_like(weight)
            d_alpha, sum_dz, sum_dz_z = x.new_zeros(3, x.shape[1])
            for rows, result, d_out in blocks:
                z = torch.addcmul(shift, rows, rstd)
                gate = z.sigmoid()
                slope = torch.addcmul(alpha, gate, rest)
                y = slope * rows
                d_weight.addmm_(d_out.T, y)
                d_y = torch.mm(d_out, weight, out=result)
                dz = torch.mul(d_y, rows, out=y)
                dz.addcmul_(dz, gate, value=-1)
                add_column_sums(dz, d_alpha)
                dz.mul_(gate)
                add_column_sums(dz, sum_dz)
                add_column_sums(z.mul_(dz), sum_dz_z)
                d_y.mul_(slope).addcmul_(dz, factor)
            return d_weight, d_alpha, sum_dz, sum_dz_z

        return in_parallel(row_blocks(x, d_x, grad), differentiate)

    def subtract_line(self, d_x: Tensor, x: Tensor, level: Tensor, tilt: Tensor) -> None:
        """See _Way."""

        def correct(blocks: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            for rows, result in blocks:
                result.sub_(torch.addcmul(level, rows, tilt))
            return ()

        in_parallel(row_blocks(x, d_x), correct)
