"""Folding a trained model for evaluation: BatchNorm into the layer before it, constants into numbers."""

from __future__ import annotations

from copy import deepcopy
from typing import Protocol, TypeVar, runtime_checkable

from torch import nn
from torch.nn.utils import fuse_linear_bn_eval

Module = TypeVar("Module", bound=nn.Module)


@runtime_checkable
class Foldable(Protocol):
    """A module of which a part depends on its weights only."""

    def folded(self) -> nn.Module:
        """What does the same in evaluation, that part computed."""


def folded(model: Module) -> Module:
    """A model that computes the same in evaluation mode with less; what is not folded is shared, not copied."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copy = deepcopy(model, shared).eval()
    for module in list(copy.modules()):
        for name, child in module.named_children():
            if isinstance(child, Foldable):
                setattr(module, name, child.folded())
        if isinstance(module, nn.Sequential):
            merge_norms(module)
    return copy


def merge_norms(layers: nn.Sequential) -> None:
    """Merge each BatchNorm that follows a linear layer into that layer."""
    place = 1
    while place < len(layers):
        linear, norm = layers[place - 1], layers[place]
        if isinstance(linear, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            layers[place - 1] = fuse_linear_bn_eval(linear, norm)
            del layers[place]
        else:
            place += 1
