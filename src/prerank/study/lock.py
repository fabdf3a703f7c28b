"""Who works on a file or directory: a lock that lasts as long as a process that holds it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def hold(path: Path) -> int | None:
    """Lock a file, which is made where it is missing.

    Returns:
        An open file; the lock lasts until every process that inherited it has closed it or ended. None if it is
        held already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file
