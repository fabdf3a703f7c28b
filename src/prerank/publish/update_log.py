"""A log of records that survives kills: appended whole, read by other processes while it grows.

A record is a head of 16 bytes (magic, length of the payload, CRC-32 of the payload, CRC-32 of the head so far) and its
payload. What an append that was killed leaves at the end is no record: it is passed over when reading and cut off
before the next append. Anything else that does not fit its checksums is damage.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prerank.errors import ArtefactError
from prerank.publish.files import lock_file, sync

MAGIC = b"PRUL"
HEAD = struct.Struct("<4sIII")


class LogReader:
    """Reads a log from its beginning, and on as it grows."""

    def __init__(self, path: Path, end: int = 0) -> None:
        """Read on behind ``end``, which is the end of a record."""
        self.path = path
        self.end = end
        self._seen: tuple[int, int] | None = None

    def grown(self) -> bool:
        """Whether there may be something new since ``read``; a system call, no more."""
        return self._state() != self._seen

    def _state(self) -> tuple[int, int] | None:
        try:
            facts = os.stat(self.path)  # noqa: PTH116 - on every request
        except FileNotFoundError:
            return None
        return facts.st_size, facts.st_mtime_ns

    def read(self) -> list[bytes]:
        """The payloads of the records after those that were read before.

        Raises:
            ArtefactError: the log is damaged, or cannot be read.
        """
        self._seen = self._state()  # before reading: what comes in between is seen next time
        try:
            with self.path.open("rb") as file:
                file.seek(self.end)
                data = file.read()
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ArtefactError(f"{self.path}: cannot be read: {error.strerror}") from None
        if size < self.end:
            raise ArtefactError(f"{self.path}: is damaged (shorter than it was); copy it again")
        payloads, offset = [], 0
        while payload := self._record(data, offset):
            payloads.append(payload)
            offset += HEAD.size + len(payload)
        self.end += offset
        return payloads

    def _record(self, data: bytes, offset: int) -> bytes | None:
        """The payload of the record at an offset; None for what a killed append left, or at the end."""
        head = data[offset : offset + HEAD.size]
        if len(head) < HEAD.size or not any(head):  # a system crash may leave zeros
            return None
        magic, length, checksum, own = HEAD.unpack(head)
        if magic != MAGIC or own != zlib.crc32(head[:12]):
            raise self._damage(offset)
        stop = offset + HEAD.size + length
        payload = data[offset + HEAD.size : stop]
        if len(payload) < length:
            return None
        if zlib.crc32(payload) != checksum:
            if stop == len(data):
                return None
            raise self._damage(offset)
        return payload

    def _damage(self, offset: int) -> ArtefactError:
        return ArtefactError(f"{self.path}: is damaged at byte {self.end + offset}; copy it again, or publish again")


def append(path: Path, end: int, payloads: Sequence[bytes]) -> None:
    """Write records at ``end``, over what a killed append left there; they are on disk before this returns.

    Raises:
        ArtefactError: they cannot be written; none of them is in the log then.
    """
    data = b"".join(framed(payload) for payload in payloads)
    try:
        with path.open("ab", buffering=0) as file:
            try:
                file.truncate(end)
                written = 0
                while written < len(data):
                    written += file.write(data[written:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
        if not end:
            sync(path.parent)
    except OSError as error:
        raise ArtefactError(f"{path}: could not be written: {error.strerror}") from None


def framed(payload: bytes) -> bytes:
    """A record; the payload is not empty."""
    head = MAGIC + struct.pack("<II", len(payload), zlib.crc32(payload))
    return head + struct.pack("<I", zlib.crc32(head)) + payload


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory's logs; wait for it if another process or thread has it.

    Raises:
        ArtefactError: the directory cannot be written.
    """
    with lock_file(directory) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
