"""A sample of what was asked and answered, written beside the service for later training and for replay.

Nothing waits for it: requests go through a bounded buffer to a thread that writes, and are dropped, and counted, when
it is full or when the disk does not take them.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import random
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from prerank.errors import ConfigError
from prerank.service.metrics import Metrics
from prerank.service.settings import ServiceConfig
from prerank.serving.preranker import Ranked
from prerank.serving.request import Request

BUFFER = 256  # records that may wait for the disk
PATTERN = "requests-*.jsonl"

log = logging.getLogger(__name__)


class _Taken(NamedTuple):
    time: datetime
    request: Request
    ranked: Ranked


class Sampler:
    """Takes a share of all requests."""

    def __init__(self, config: ServiceConfig, metrics: Metrics) -> None:
        """Begin to write, if the share is not 0, to a directory that was checked."""
        self.share = config.sample
        self.metrics = metrics
        self._buffer: queue.Queue[_Taken | None] = queue.Queue(BUFFER)
        self._thread: threading.Thread | None = None
        if self.share and config.sample_dir is not None:
            self._files = _Files(config.sample_dir, config.sample_file_bytes, config.sample_files)
            self._thread = threading.Thread(target=self._run, name="sample", daemon=True)
            self._thread.start()

    def offer(self, request: Request, ranked: Ranked) -> None:
        """Take a request that was answered, or not; never wait."""
        if not self.share or random.random() >= self.share:
            return
        try:
            self._buffer.put_nowait(_Taken(datetime.now(UTC), request, ranked))
        except queue.Full:
            self.metrics.sampled.labels("dropped").inc()

    def close(self, seconds: float = 5) -> None:
        """Write what waits, for so long at most."""
        if self._thread is not None:
            try:
                self._buffer.put(None, timeout=seconds)
            except queue.Full:
                return
            self._thread.join(seconds)

    def _run(self) -> None:
        failed = False
        while (taken := self._buffer.get()) is not None:
            try:
                self._files.append(record(taken.time, taken.request, taken.ranked))
            except Exception as error:  # a full disk, as a rule; requests are answered all the same
                if not failed:
                    log.error("sampled requests are dropped: %s: %s", type(error).__name__, error)
                failed = True
                self.metrics.sampled.labels("dropped").inc()
            else:
                failed = False
                self.metrics.sampled.labels("written").inc()
        self._files.close()


def check_place(config: ServiceConfig) -> None:
    """Make the directory of the sample, if there is to be one.

    Raises:
        ConfigError: it cannot be written to.
    """
    if not config.sample or config.sample_dir is None:
        return
    try:
        config.sample_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=config.sample_dir):
            pass
    except OSError as error:
        raise ConfigError(f"sample_dir {config.sample_dir}: cannot be written to: {error.strerror}") from None


def record(time: datetime, request: Request, ranked: Ranked) -> bytes:
    """A line of ``prerank.serving.lines``."""
    asked = {name: value for name, value in vars(request).items() if _given(value)}
    content = {
        "time": time.isoformat(timespec="milliseconds"),
        "generation": ranked.generation,
        "request": {"user": {}, "candidates": [], **asked},
        "answer": ranked.content(),
    }
    try:
        return msgspec.json.encode(content, enc_hook=_plain) + b"\n"
    except OverflowError:  # an id of more than 64 bits
        return json.dumps(content, default=_plain).encode() + b"\n"


def _given(value: Any) -> bool:
    return value is not None and not (hasattr(value, "__len__") and len(value) == 0)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


class _Files:
    """Files of bounded size, of which the oldest ones go. Readable by the service's user alone."""

    def __init__(self, directory: Path, size: int, most: int) -> None:
        self.directory, self.size, self.most = directory, size, most
        self._count = 0
        self._file = -1
        self._path = directory
        self._held = 0

    def append(self, line: bytes) -> None:
        """Write a whole line or nothing.

        Raises:
            OSError: nothing.
        """
        if self._file >= 0 and ((self._held and self._held + len(line) > self.size) or not self._path.exists()):
            self.close()
        if self._file < 0:
            self._open()
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError("the disk is full")
        except OSError:
            os.ftruncate(self._file, self._held)
            raise
        self._held += written

    def close(self) -> None:
        """End the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        now = datetime.now(UTC)
        self._path = self.directory / f"requests-{now:%Y%m%dT%H%M%S}-{os.getpid()}-{self._count:06}.jsonl"
        self._count += 1
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._held = os.fstat(self._file).st_size
        for old in sorted(self.directory.glob(PATTERN))[: -self.most]:
            old.unlink(missing_ok=True)
