"""Following a generation's log of updates: from records to overlays."""

from __future__ import annotations

import json
import logging
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prerank.errors import ArtefactError
from prerank.publish.item_ids import Kind, request_keys
from prerank.publish.overlay import Overlay
from prerank.publish.precision import ON_DISK, Precision, Vectors
from prerank.publish.store_files import Encoded, from_disk, to_disk
from prerank.publish.update_log import LogReader

UPDATES = "updates"
LOG_FORMAT = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """What the records of a store's log look like: the store's own form.

    Attributes:
        generation: the generation that the items are encoded for.
        kind: whether ids are integers or texts.
        salt: of the hash of texts.
        precision: how vectors are kept.
        index_columns: of ``model.item``.
        width: of its other columns.
        behaviour_width: of what a history sees of an item; 0 where histories are records.
    """

    generation: str
    kind: Kind
    salt: int
    precision: Precision
    index_columns: int
    width: int
    behaviour_width: int

    def beginning(self) -> bytes:
        """The first record of a log: all that its records depend on."""
        return json.dumps({"log": LOG_FORMAT, **asdict(self)}).encode()

    def upsert(
        self,
        ids: Sequence[int | str],
        titles: Sequence[str | None],
        items: Encoded,
        matches: Sequence[list[Any]] = (),
    ) -> bytes:
        """The record of items that were encoded; ``matches`` as an overlay has them."""
        parts = [items.index.tobytes()]
        for vectors in (items.rows, items.behaviours):
            if vectors is not None:
                parts.append(to_disk(vectors.values).tobytes())
                parts.append(b"" if vectors.scales is None else vectors.scales.numpy().tobytes())
        facts: dict[str, Any] = {"op": "upsert", "ids": list(ids)}
        if any(titles):
            facts["titles"] = list(titles)
        if matches:
            facts["matches"] = list(matches)
        return _joined(facts, b"".join(parts))

    def delete(self, ids: Sequence[int | str]) -> bytes:
        """The record of deleted items."""
        return _joined({"op": "delete", "ids": list(ids)}, b"")

    def apply(self, overlay: Overlay, record: bytes) -> Overlay:
        """The overlay with a record's changes."""
        facts, body = _parted(record)
        ids = facts["ids"]
        keys, _ = request_keys(ids, self.kind, self.salt, "ids")
        if facts["op"] == "delete":
            return overlay.deleted(keys)
        titles = facts.get("titles", [None] * len(ids))
        return overlay.upserted(keys, self._items(len(ids), body), ids, titles, facts.get("matches", ()))

    def _items(self, count: int, body: memoryview) -> Encoded:
        taken = 0

        def take(size: int) -> bytes:
            nonlocal taken
            taken += size
            return bytes(body[taken - size : taken])

        def vectors(width: int) -> Vectors:
            values = from_disk(take(count * width * ON_DISK[self.precision].itemsize), (count, width), self.precision)
            scales = from_disk(take(4 * count), (count,), "float32") if self.precision == "int8" else None
            return Vectors(values, scales)

        index = np.frombuffer(take(2 * count * self.index_columns), np.uint16).reshape(count, self.index_columns)
        return Encoded(
            index.copy(), vectors(self.width), vectors(self.behaviour_width) if self.behaviour_width else None
        )


class Follower:
    """The overlay of one opened store, which follows the log as any process appends to it.

    There is no thread: whoever looks something up asks the system for the log's size first (two microseconds) and, if
    it has grown, reads the rest, unless another thread is just doing that.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        """Read what is there.

        Raises:
            ArtefactError: the log is damaged, of another format or of another generation.
        """
        self.layout = layout
        self.reader = LogReader(path)
        self.overlay = Overlay()
        self._turn = threading.Lock()
        self._failed = -1
        self.catch_up()

    def latest(self) -> Overlay:
        """The overlay as of now. A log that was damaged while being followed leaves it as it was, with a log line."""
        if self.reader.grown() and self._turn.acquire(blocking=False):
            try:
                self._read()
            except ArtefactError as error:
                if self._failed != self.reader.end:
                    log.error("updates are not followed any more: %s", error)
                self._failed = self.reader.end
            finally:
                self._turn.release()
        return self.overlay

    def catch_up(self) -> None:
        """Read all that is there now.

        Raises:
            ArtefactError: the log is damaged, of another format or of another generation.
        """
        with self._turn:
            self._read()

    def _read(self) -> None:
        first = self.reader.end == 0
        records = self.reader.read()
        if first and records:
            self._check(json.loads(records.pop(0)))
        overlay = self.overlay
        for record in records:
            overlay = self.layout.apply(overlay, record)
        self.overlay = overlay  # readers see all of it or nothing

    def _check(self, beginning: Mapping[str, Any]) -> None:
        expected = json.loads(self.layout.beginning())
        if beginning != expected:
            raise ArtefactError(f"{self.reader.path}: is the log {beginning}, not {expected}; remove it")


def _joined(facts: Mapping[str, Any], body: bytes) -> bytes:
    text = json.dumps(facts).encode()
    return struct.pack("<I", len(text)) + text + body


def _parted(record: bytes) -> tuple[Mapping[str, Any], memoryview]:
    (length,) = struct.unpack_from("<I", record)
    facts: Mapping[str, Any] = json.loads(record[4 : 4 + length])
    return facts, memoryview(record)[4 + length :]
