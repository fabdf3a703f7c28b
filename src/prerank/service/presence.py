"""Whether the client of a request is still there."""

from __future__ import annotations

from collections.abc import Callable


class Presence:
    """Of one connection, whose requests are answered one after the other."""

    def __init__(self) -> None:
        self.gone = False
        self.tell: Callable[[], object] | None = None
        """Called once if the client goes: what stops the request that is being answered."""

    def leave(self) -> None:
        """The client has gone."""
        self.gone = True
        if self.tell is not None:
            self.tell()
            self.tell = None
