"""What an event loop waits with where a millisecond is too long."""

from __future__ import annotations

import select
import selectors
from typing import Any


class PreciseSelector(selectors.EpollSelector):
    """Waits to the microsecond: epoll rounds up to the millisecond, which would count as the service's latency.

    ``select`` does not round, but looks at every connection each time, so it is given epoll's own file alone.
    """

    def select(self, timeout: float | None = None) -> Any:
        """Files that are ready, as of ``selectors``."""
        if timeout is not None and timeout > 0:
            select.select([self], [], [], timeout)
            timeout = 0
        return super().select(timeout)
