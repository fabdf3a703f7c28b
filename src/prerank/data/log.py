"""The interaction log: events kept once, and rows that are windows into users' timelines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prerank.config import parse
from prerank.data.protocol import Protocol
from prerank.errors import DataError
from prerank.schema import Schema

Ints = NDArray[np.int64]
Rowids = NDArray[np.int32]

PARTS = ("train", "valid", "test")
FORMAT = 1


@dataclass(frozen=True)
class RawLog:
    """What a source returns: tables in the user's own ids, events in file order.

    Attributes:
        name: the source's name, as on the command line.
        schema: what the columns mean.
        users: one row a user, with ``schema.user_id`` and the user fields.
        items: one row an item, with ``schema.item_id``, the item fields and the title if any.
        events: ``user``, ``item``, ``time`` (int64) and, where the source has them, ``rating`` (float), ``label``
            (0 or 1), ``stage`` (int64, the higher the further the item came), ``behaviour`` (bool: the event belongs to
            the user's history; all do when absent) and the context and given pair fields.
        records: only for ``history_of: records``: ``user``, ``time`` and the history fields, in file order.
    """

    name: str
    schema: Schema
    users: pl.DataFrame
    items: pl.DataFrame
    events: pl.DataFrame
    records: pl.DataFrame | None = None


@dataclass(frozen=True)
class Timelines:
    """All users' behaviours, one user after the other, oldest first.

    Attributes:
        offsets: (U + 1,) where each user's behaviours begin.
        entries: (E,) row numbers of the behaviour table.
        times: (E,) seconds, or whatever unit the source has.
    """

    offsets: Ints
    entries: Rowids
    times: Ints

    @property
    def owners(self) -> Rowids:
        """(E,) the user of each behaviour."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), np.diff(self.offsets))

    def windows(self, users: Rowids, ends: Ints, length: int) -> tuple[Ints, Ints]:
        """The last ``length`` behaviours before position ``ends`` of each user's timeline.

        Returns:
            entries (T,): row numbers of the behaviour table, oldest first; lengths (R,), summing to T.
        """
        starts = np.maximum(self.offsets[users], ends - length)
        lengths = ends - starts
        total = int(lengths.sum())
        first_of_row = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        return self.entries[first_of_row + np.arange(total)].astype(np.int64), lengths


@dataclass(frozen=True)
class Rows:
    """R requests of one part, each a user at a moment with C candidates.

    Attributes:
        users: (R,) row numbers of the user table.
        ends: (R,) position in the timelines at which the history ends; behaviours before it are visible.
        items: (R, C) row numbers of the item table.
        labels: (R, C) 1 for positive.
        times: (R,) time of the event.
        context: R rows of context fields, or None where the schema has none.
        pairs: R * C rows of given pair fields, the candidates of the first request first, or None likewise.
        grades: (R, C) how far each candidate came, the higher the further, or None where the log has no stages.
    """

    users: Rowids
    ends: Ints
    items: Rowids
    labels: NDArray[np.uint8]
    times: Ints
    context: pl.DataFrame | None = None
    pairs: pl.DataFrame | None = None
    grades: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, chosen: Ints | NDArray[np.bool_]) -> Self:
        """The requests at the given positions, or where the mask is true."""
        context = None
        if self.context is not None:
            context = self.context.filter(chosen) if chosen.dtype == np.bool_ else self.context[chosen]
        pairs = self.pairs[self.places(chosen)] if self.pairs is not None else None
        return type(self)(
            self.users[chosen],
            self.ends[chosen],
            self.items[chosen],
            self.labels[chosen],
            self.times[chosen],
            context,
            pairs,
            None if self.grades is None else self.grades[chosen],
        )

    def places(self, chosen: Ints | NDArray[np.bool_]) -> Ints:
        """(n * C,) where the candidates of the chosen requests stand among all R * C."""
        requests = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        each = self.items.shape[1]
        return np.asarray(requests.astype(np.int64)[:, None] * each + np.arange(each)).ravel()


@dataclass(frozen=True)
class Dataset:
    """A built data set: tables, timelines and the three parts, with the facts and the leak audit of its build.

    ``behaviours`` is the table that histories point into: the item table itself unless histories are records.
    """

    name: str
    schema: Schema
    protocol: Protocol
    users: pl.DataFrame
    items: pl.DataFrame
    behaviours: pl.DataFrame
    timelines: Timelines
    parts: Mapping[str, Rows]
    facts: Mapping[str, Any]

    def with_items(self, items: pl.DataFrame) -> Self:
        """This data set, seeing items as another table has them; those that it lacks stay as they are.

        Args:
            items: the id and every item field; further items and columns are passed over.

        Raises:
            DataError: a column is missing, or cannot be converted to the type that it has here.
        """
        key = self.schema.item_id
        names = list(dict.fromkeys([key, *(field.name for field in self.schema.item)]))
        try:
            other = items.select(pl.col(name).cast(self.items.schema[name]) for name in names)
        except pl.exceptions.PolarsError as error:
            raise DataError(f"items: not as in the data set {self.name}: {str(error).splitlines()[0]}") from None
        table = self.items.update(other, on=key, include_nulls=True)
        return replace(self, items=table, behaviours=table if self.behaviours is self.items else self.behaviours)

    def save(self, directory: Path) -> None:
        """Write the data set, also over an earlier one; ``dataset.json`` names the format once all the rest is there.

        Raises:
            DataError: the directory holds tables that no data set wrote.
        """
        directory.mkdir(parents=True, exist_ok=True)
        manifest = directory / "dataset.json"
        if not manifest.exists() and (directory / "users.parquet").exists():
            raise DataError(f"{directory}: holds tables that are not a data set's; choose another folder to write to")
        manifest.write_text('{"format": "unfinished"}\n', encoding="utf-8")
        self.users.write_parquet(directory / "users.parquet")
        self.items.write_parquet(directory / "items.parquet")
        if self.schema.history_of == "records":
            self.behaviours.write_parquet(directory / "behaviours.parquet")
        for name in ("offsets", "entries", "times"):
            _write_array(directory / f"timelines.{name}.npy", getattr(self.timelines, name))
        for part, rows in self.parts.items():
            for name in ("users", "ends", "items", "labels", "times"):
                _write_array(directory / f"{part}.{name}.npy", getattr(rows, name))
            if rows.grades is not None:
                _write_array(directory / f"{part}.grades.npy", rows.grades)
            if rows.context is not None:
                rows.context.write_parquet(directory / f"{part}.context.parquet")
            if rows.pairs is not None:
                rows.pairs.write_parquet(directory / f"{part}.pairs.parquet")
        summary = {
            "format": FORMAT,
            "name": self.name,
            "schema": self.schema.model_dump(mode="json"),
            "protocol": self.protocol.model_dump(mode="json"),
            "facts": self.facts,
        }
        manifest.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Open a built data set; large arrays are mapped, not read.

        Raises:
            DataError: the directory is not a data set, is of another format version, or misses a file.
        """
        manifest = directory / "dataset.json"
        if not manifest.is_file():
            raise DataError(f"{directory}: not a built data set (no dataset.json); make one with: prerank data build")
        try:
            summary = json.loads(manifest.read_text(encoding="utf-8"))
            version = summary["format"]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{manifest}: damaged; build the data set again") from None
        if version != FORMAT:
            raise DataError(f"{manifest}: format {version}, this prerank reads {FORMAT}; build the data set again")
        try:
            schema = parse(Schema, summary["schema"], str(manifest))
            items = pl.read_parquet(directory / "items.parquet")
            records = schema.history_of == "records"
            protocol = parse(Protocol, summary["protocol"], str(manifest))
            return cls(
                name=summary["name"],
                schema=schema,
                protocol=protocol,
                users=pl.read_parquet(directory / "users.parquet"),
                items=items,
                behaviours=pl.read_parquet(directory / "behaviours.parquet") if records else items,
                timelines=Timelines(*(_array(directory, f"timelines.{n}") for n in ("offsets", "entries", "times"))),
                parts={part: _read_rows(directory, part, schema, protocol) for part in PARTS},
                facts=summary["facts"],
            )
        except (OSError, EOFError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{directory}: incomplete or damaged ({reason}); build the data set again") from None


def _write_array(path: Path, array: NDArray[Any]) -> None:
    path.unlink(missing_ok=True)  # whoever has an earlier one mapped keeps it; truncating it would kill them
    np.save(path, array, allow_pickle=False)


def _array(directory: Path, name: str) -> Any:
    """Mapped, as a plain array: indexing the subclass memmap is several times slower."""
    return np.asarray(np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False))


def _read_rows(directory: Path, part: str, schema: Schema, protocol: Protocol) -> Rows:
    context = pl.read_parquet(directory / f"{part}.context.parquet") if schema.context else None
    pairs = pl.read_parquet(directory / f"{part}.pairs.parquet") if schema.given_pairs else None
    users, ends, items, labels, times = (
        _array(directory, f"{part}.{name}") for name in ("users", "ends", "items", "labels", "times")
    )
    grades = _array(directory, f"{part}.grades") if protocol.labels == "stages" else None
    return Rows(users, ends, items, labels, times, context, pairs, grades)
