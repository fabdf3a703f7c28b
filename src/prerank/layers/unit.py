"""What a model asks of an interaction unit, whichever it is (FIT sec. 4: any interaction network will do)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from prerank.batch import History
from prerank.layers.interaction import DINUnit


class InteractionUnit(nn.Module, ABC):
    """C queries of each of B requests against the request's behaviours and profile fields.

    A result depends on its own query and request only; an empty history counts as zeros.

    Attributes:
        width: W, of a result.
    """

    width: int

    @abstractmethod
    def forward(self, queries: Tensor, history: History, profile: Tensor) -> Tensor:
        """One vector for each query.

        Args:
            queries: (B, C, D), with D the width of a behaviour.
            history: B histories.
            profile: (B, F, d) the user's embedded fields; units that look at behaviours only leave them aside.

        Returns:
            (B, C, W), in the parameters' precision, autocast or not.
        """

    def relaxed(self, queries: Tensor, history: History, profile: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The same in training, with auxiliary losses by name, each already weighted."""
        return self(queries, history, profile), {}


class AttentionUnit(DINUnit, InteractionUnit):
    """DIN's attention, which looks at behaviours only."""

    def __init__(self, width: int, hidden: Sequence[int], positions: int = 0) -> None:
        """See DINUnit."""
        super().__init__(width, hidden, positions)
        self.width = width

    def forward(self, queries: Tensor, history: History, profile: Tensor | None = None) -> Tensor:
        """(B, C, D) from (B, C, D) queries."""
        del profile
        return super().forward(queries, history)
