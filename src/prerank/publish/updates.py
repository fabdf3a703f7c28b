"""Upserting and deleting items of what is being served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch

from prerank.errors import ArtefactError, DataError, RequestError
from prerank.publish.encode import represent
from prerank.publish.follower import UPDATES, Follower
from prerank.publish.generation import Generation, locate, log_of, open_generation
from prerank.publish.item_ids import request_keys
from prerank.publish.match_columns import plain
from prerank.publish.update_log import append, writing

RECORD = 4096  # items that become visible in one step

Id = int | str
Items = pl.DataFrame | Sequence[Mapping[str, Any]]


class ItemUpdates:
    """Changes items of the current generation; every process that has it open sees them with its next request.

    New items are encoded by the published item tower; attribute values that it does not know are out-of-vocabulary. A
    change is on disk when the call returns, and stays there over kills of any process. Several processes and threads
    may write; they take turns.
    """

    def __init__(self, directory: Path, generation: Generation) -> None:
        """Write to the log of an opened generation.

        Args:
            directory: the published directory.
            generation: its current generation, as ``open_generation`` gave it.

        Raises:
            ArtefactError: the generation does not lie in a published directory.
        """
        if generation.store.updates is None:
            raise ArtefactError(f"{directory}: items can be changed in a directory made by prerank publish only")
        self.directory = directory
        self.generation = generation
        self._follower: Follower = generation.store.updates

    @classmethod
    def open(cls, directory: Path | str) -> Self:
        """For what is published at ``directory``.

        Raises:
            ArtefactError: nothing is published there, or it is damaged.
        """
        return cls(Path(directory), open_generation(locate(Path(directory)), planned=False))

    def upsert(self, items: Items) -> int:
        """Add items, or replace those whose ids are there already.

        Args:
            items: a table with the id and every item field, or mappings, in which a missing field is unknown; the title
                is optional. Of an id that occurs twice the last row counts. ``RECORD`` items become visible in one
                step.

        Returns:
            How many rows were written.

        Raises:
            DataError: a column is missing or of the wrong kind, or an id is missing.
            RequestError: an id or value of a mapping is of the wrong kind.
            ArtefactError: the generation is not the current one any more, the log is damaged or cannot be written, or a
                representation cannot be stored.
        """
        self._write([self._upsert(part) for part in _parts(items)])
        return len(items)

    def delete(self, ids: Sequence[Id]) -> int:
        """Remove items; ids that are not there are passed over.

        Returns:
            How many ids were written.

        Raises:
            RequestError: an id is neither an integer nor a text.
            ArtefactError: the generation is not the current one any more, or the log is damaged or cannot be written.
        """
        plain = self._ids(ids)
        parts = range(0, len(plain), RECORD)
        self._write([self._follower.layout.delete(plain[start : start + RECORD]) for start in parts])
        return len(plain)

    @torch.inference_mode()
    def _upsert(self, items: Items) -> bytes:
        """The record of some items."""
        encoder = self.generation.bundle.encoder
        item_id, title = encoder.schema.item_id, encoder.schema.title
        if isinstance(items, pl.DataFrame):
            if item_id not in items.columns:
                raise DataError(f"items: column {item_id!r} is missing; columns: {', '.join(items.columns)}")
            ids = self._ids(items[item_id].to_list())
            titles = items[title].cast(pl.String).to_list() if title in items.columns else [None] * len(ids)
            features = encoder.encode("item", items)
            compared = encoder.encode("match", items)
        else:
            ids = self._ids([item.get(item_id) for item in items])
            titles = [None if title is None or item.get(title) is None else str(item[title]) for item in items]
            fields = {field.name for field in encoder.schema.item}
            hidden = {title} - fields  # people read it, the model does not
            rows = [{key: value for key, value in item.items() if key not in hidden} for item in items]
            features = encoder.encode_values("item", rows)
            names = [field.name for field in encoder.match_fields]
            compared = encoder.encode_values("match", [{name: row.get(name) for name in names} for row in rows])
        matches = [] if self.generation.store.matches is None else plain(compared)
        encoded = represent(self.generation.bundle, features, self._follower.layout.precision, ids)
        return self._follower.layout.upsert(ids, titles, encoded, matches)

    def _ids(self, ids: Sequence[Any]) -> list[Id]:
        """Ids as JSON has them, each possible in this catalogue."""
        store = self.generation.store
        _, possible = request_keys(ids, store.kind, store.salt, "items")
        for place in np.flatnonzero(~possible)[:1]:
            raise RequestError(f"items[{place}]: {ids[place]!r} is no id of this catalogue, whose ids are integers")
        return [value if isinstance(value, str) else int(value) for value in ids]

    def _write(self, records: list[bytes]) -> None:
        with writing(self.directory / UPDATES):
            current = locate(self.directory)
            if log_of(current) != self._follower.reader.path:
                raise ArtefactError(
                    f"{self.directory}: generation {self.generation.name} was replaced by {current.name}; open it again"
                )
            self._follower.catch_up()
            end = self._follower.reader.end
            beginning = [] if end else [self._follower.layout.beginning()]
            if records:
                append(self._follower.reader.path, end, [*beginning, *records])
        self._follower.catch_up()


def _parts(items: Items) -> Iterator[Items]:
    for start in range(0, len(items), RECORD):
        yield items[start : start + RECORD]
