"""The dense layer of towers: nn.Linear through the faster of the two matrix libraries that PyTorch brings.

For float32 on a CPU, PyTorch takes MKL, which leaves AVX-512 unused on processors that are not Intel's, and with it
half of their arithmetic. oneDNN uses it on all of them. It compiles a kernel for each shape, which takes milliseconds,
so it pays for large products and for those whose number of rows is the batch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FEWEST = 1 << 20  # multiplications of a product: below, oneDNN's preparation takes longer than the product

_WIDE = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()


class Dense(nn.Linear):
    """nn.Linear; the same weights under the same names, the same results but for the order of sums."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name is nn.Linear's
        """(..., inputs) to (..., outputs)."""
        return dense(input, self.weight, self.bias)


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear: (..., inputs), (outputs, inputs) and (outputs,) to (..., outputs)."""
    rows = x.shape[:-1].numel()
    if not _of_one_dnn(x, weight) or rows * weight.numel() < FEWEST:
        return F.linear(x, weight, bias)
    out: Tensor = _Dense.apply(x.reshape(rows, -1), weight, bias)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], -1)


def _of_one_dnn(x: Tensor, weight: Tensor) -> bool:
    single = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    return _WIDE and single and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(grad, weight.T) if of_x else None,
            _product(grad.T, x.T) if of_weight else None,
            grad.sum(0) if of_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear; the operation is the one that PyTorch's compiler uses."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out
