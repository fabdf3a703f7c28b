"""The fully connected tower of both sides."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from prerank.layers.dense import Dense


class Tower(nn.Module):
    """Linear, BatchNorm, ReLU for each width (FIT eq. 1; IntTower sec. 5.1.4).

    ``rectified`` says whether the last layer ends so, too, as the papers have it, or is Linear alone.
    """

    def __init__(self, inputs: int, widths: Sequence[int], *, rectified: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for left, width in zip(reversed(range(len(widths))), widths, strict=True):
            layers.append(Dense(inputs, width))
            if left or rectified:
                layers += [nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.width = inputs

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., widths[-1]); BatchNorm sees all leading dimensions as rows."""
        return self.every(x)[-1]

    def every(self, x: Tensor) -> list[Tensor]:
        """The output of every layer, (..., widths[i]) each (IntTower's h^1 to h^L)."""
        h, outputs = x.reshape(-1, x.shape[-1]), []
        for layer in self.layers:
            h = layer(h)
            if isinstance(layer, nn.ReLU) or layer is self.layers[-1]:
                outputs.append(h.view(*x.shape[:-1], h.shape[-1]))
        return outputs
