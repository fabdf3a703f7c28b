"""Memory that a training step gives back stays with the process: the next step needs as much."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # as malloc.h of the GNU C library numbers them
LARGE = 1 << 30  # bytes


def keep_freed_memory() -> bool:
    """Tell the C library's allocator to keep what is freed, whose pages the kernel otherwise clears in every step.

    Returns:
        Whether it heard; only the GNU C library does.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, LARGE) for option in (TRIM_THRESHOLD, MMAP_THRESHOLD))
