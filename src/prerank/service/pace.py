"""Work beside requests in short spells with rests, so that no request waits long for a core or the interpreter's lock.

A thread of a lower priority does not do it. It is still given a core for milliseconds while a request's threads wake
up, several times a request; and one that is put aside while it holds the interpreter's lock holds up all others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, sleep
from types import FrameType
from typing import Any

SPELL = 0.0005  # seconds
REST = 0.002


@contextmanager
def paced() -> Iterator[None]:
    """Have the calling thread rest after each spell of work, at the next call of a function.

    It is the interpreter's hook for profilers that looks at the clock, so what is called need not know of it. A single
    call into compiled code is not interrupted; such calls mostly leave the interpreter's lock to others.
    """
    begun = perf_counter()

    def look(_frame: FrameType, _event: str, _argument: Any) -> None:
        nonlocal begun
        if perf_counter() - begun > SPELL:
            sleep(REST)
            begun = perf_counter()

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)
