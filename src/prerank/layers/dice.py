"""Dice, DIN's activation, together with the linear layer that always follows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
        mean, var = _moments(x.detach()) if of_batch else (self.running_mean, self.running_var)
        if of_batch:
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (len(x) / (len(x) - 1)), self.momentum)
        linear, rstd = self.linear, torch.rsqrt(var + self.eps)
        out: Tensor = _DiceLinear.apply(x, self.alpha, linear.weight, linear.bias, mean, rstd, of_batch)  # type: ignore[no-untyped-call]
        return out


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
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


class _DiceLinear(torch.autograd.Function):
    """The formula of DiceLinear, given mean and 1 / standard deviation.

    ``of_batch`` says that these two are those of x itself, through which the gradient then flows too.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, of_batch: bool
    ) -> Tensor:
        ctx.save_for_backward(x, alpha, weight, mean, rstd)
        ctx.of_batch = of_batch
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

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With y = Dice(x) = slope * x, slope = alpha + (1 - alpha) * g and z = the normalised x.

        dz stands for the gradient of z without its factor 1 - alpha.
        """
        x, alpha, weight, mean, rstd = ctx.saved_tensors
        d_x = torch.empty_like(x)
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

        d_weight, d_alpha, sum_dz, sum_dz_z = in_parallel(row_blocks(x, d_x, grad), differentiate)
        if ctx.of_batch:  # less what mean and variance take: factor * (mean(dz) + z * mean(dz * z))
            tilt = factor * rstd * sum_dz_z / len(x)
            level = factor * sum_dz / len(x) - mean * tilt

            def correct(blocks: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
                for rows, result in blocks:
                    result.sub_(torch.addcmul(level, rows, tilt))
                return ()

            in_parallel(row_blocks(x, d_x), correct)
        return d_x, d_alpha, d_weight, grad.sum(0), None, None, None
