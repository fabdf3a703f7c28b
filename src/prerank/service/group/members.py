"""What is known of all workers of a service; a service without several has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

State = Literal["starting", "ready", "draining", "down"]


class Worker(msgspec.Struct, frozen=True):
    """How a worker is.

    Attributes:
        worker: its number, counted from 0; one that is restarted keeps it.
        pid: of its process; 0 while it is down.
        state: it loads its first generation, answers, is about to end, or is not there.
        generation: what it serves.
        model: of the generation.
        items: rows of its item store.
        restarts: how often it has ended and was replaced.
        refused: generations that it refused, and why.
    """

    worker: int
    pid: int = 0
    state: State = "down"
    generation: str | None = None
    model: str = ""
    items: int = 0
    restarts: int = 0
    refused: dict[str, str] = {}


class Group(Protocol):
    """All workers, as far as one of them knows."""

    @property
    def ready(self) -> bool:
        """Whether requests are welcome."""

    def workers(self) -> list[Worker]:
        """How each of them is, in the order of their numbers."""


class Alone:
    """The only worker there is."""

    def __init__(self, state: Callable[[], Worker], look_now: Callable[[], None]) -> None:
        self.state = state
        self.look_now = look_now

    @property
    def ready(self) -> bool:
        """Whether requests are welcome."""
        return self.state().state == "ready"

    def workers(self) -> list[Worker]:
        """How it is."""
        return [self.state()]
