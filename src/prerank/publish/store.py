"""The item store: an encoded catalogue on disk, mapped into memory and shared between processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from prerank.batch import Features, Ragged
from prerank.publish.follower import Follower, Layout
from prerank.publish.item_ids import Ints, Kind, request_keys
from prerank.publish.key_table import KeyTable
from prerank.publish.match_columns import MatchColumns
from prerank.publish.precision import Precision, Vectors
from prerank.publish.store_files import Encoded, map_array, map_vectors, read_facts, touch


@dataclass(frozen=True)
class ItemStore:
    """R items in the order of the catalogue, and behind them those that were upserted since.

    An upserted item has a position of its own, so that whatever was looked up can be gathered, though the item may
    have been changed or deleted in between.

    Attributes:
        generation: the generation that the rows were encoded for.
        kind: whether ids are integers or texts.
        salt: of the hash of texts.
        table: from keys to positions.
        index: (R, index columns) uint8 or uint16, the whole-number columns of ``model.item``; None without any.
        precision: how ``rows`` and ``behaviours`` are kept.
        rows: the other columns.
        behaviours: R + 1 vectors of width D, what a history sees of each item, the last one being an unknown item;
            None where histories are records.
        matches: each item's ids that counted pair features compare; None where the model reads none.
        titles: batches of ids and titles for people, all but the last of the same length; None where the schema has
            no title.
        updates: upserts and deletes since, as they come; None where there can be none.
    """

    generation: str
    kind: Kind
    salt: int
    table: KeyTable
    index: NDArray[Any] | None
    precision: Precision
    rows: Vectors
    behaviours: Vectors | None
    matches: MatchColumns | None
    titles: list[pa.RecordBatch] | None
    updates: Follower | None

    @classmethod
    def open(cls, directory: Path, log: Path | None = None, *, preload: bool = False) -> Self:
        """Map the store at ``directory``, whose files the caller has verified.

        Args:
            directory: the store.
            log: of upserts and deletes, which need not be there yet.
            preload: read everything now, so that no request waits for the disk; it stays shared between processes.

        Raises:
            ArtefactError: the store is of another layout, or the log is damaged.
        """
        facts = read_facts(directory)
        precision: Precision = facts["dtype"]
        layout = Layout(
            generation=facts["generation"],
            kind=facts["kind"],
            salt=int(facts["salt"], 16),
            precision=precision,
            index_columns=facts["index_columns"],
            width=facts["width"],
            behaviour_width=facts["behaviour_width"],
        )
        titles = directory / "titles.arrow"
        store = cls(
            generation=layout.generation,
            kind=layout.kind,
            salt=layout.salt,
            table=KeyTable(map_array(directory / "ids.npy"), map_array(directory / "slots.npy")),
            index=map_array(directory / "index.npy") if facts["index_columns"] else None,
            precision=precision,
            rows=map_vectors(directory, "rows", precision),
            behaviours=map_vectors(directory, "behaviours", precision) if facts["behaviour_width"] else None,
            matches=MatchColumns.open(directory),
            titles=_batches(titles) if titles.exists() else None,
            updates=Follower(log, layout) if log is not None else None,
        )
        if preload:
            store._touch()
        return store

    def __len__(self) -> int:
        return len(self.table)

    @property
    def nbytes(self) -> int:
        """Bytes of what requests read: rows, behaviours, index and table of ids."""
        vectors = sum(part.nbytes for part in (self.rows, self.behaviours) if part is not None)
        arrays = (self.table.keys, self.table.slots, self.index)
        return vectors + sum(array.nbytes for array in arrays if array is not None)

    def lookup(self, ids: Sequence[Any] | NDArray[Any], place: str = "ids") -> tuple[Ints, NDArray[np.bool_]]:
        """Where each id stands in the store.

        Args:
            ids: K integers or texts; 25 and "25" are the same id.
            place: what a message calls the list.

        Returns:
            (K,) positions, those of unknown ids meaning nothing, and (K,) which ids are known.

        Raises:
            RequestError: an id is neither an integer nor a text.
        """
        keys, possible = request_keys(ids, self.kind, self.salt, place)
        positions, found = self.table.find(keys)
        if self.updates is not None:
            self.updates.latest().change(keys, positions, found, len(self))
        return positions, possible & found

    def gather(self, positions: Ints) -> Tensor:
        """(K, Wv) float32 representations of the items at (K,) positions, laid out as ``model.item`` gives them."""
        rows = self._vectors(positions)
        if self.index is None:
            return rows
        return torch.cat([torch.from_numpy(self.indices(positions).astype(np.float32)), rows], dim=1)

    def indices(self, positions: Ints) -> NDArray[Any]:
        """(K, index columns) the whole-number columns of the items at (K,) positions."""
        assert self.index is not None
        updated = self._updated(positions)
        if updated is None:
            indices: NDArray[Any] = self.index.take(positions, axis=0)
            return indices
        new, items = updated
        indices = np.empty((len(positions), self.index.shape[1]), dtype=np.uint16)
        indices[~new] = self.index[positions[~new]]
        indices[new] = items.index[positions[new] - len(self)]
        return indices

    def floats(self, positions: Ints) -> tuple[NDArray[np.float32], Ints]:
        """What ``gather`` gives after the index columns, without a copy where the rows are kept as float32.

        Returns:
            (..., W) float32 rows, and (K,) the row among them of each of the items at (K,) positions.
        """
        if self.precision == "float32" and self._updated(positions) is None:
            return self.rows.values.numpy(), positions
        return self._vectors(positions).numpy(), np.arange(len(positions))

    def remember(self, positions: Ints, known: NDArray[np.bool_]) -> Tensor:
        """(L, D) float32 behaviour embeddings of L past items; unknown ones are the out-of-vocabulary behaviour."""
        assert self.behaviours is not None
        updated = self._updated(np.where(known, positions, 0))
        places = torch.from_numpy(np.where(known, positions, len(self)))
        if updated is None:
            return self.behaviours.take(places)
        new, items = updated
        assert items.behaviours is not None
        return _either(self.behaviours, items.behaviours, places, torch.from_numpy(new), len(self))

    def matched(self, positions: Ints, known: NDArray[np.bool_] | None = None) -> Features:
        """(K,) ids that are compared of the items at (K,) positions; unknown items have none."""
        assert self.matches is not None
        everything = np.ones(len(positions), dtype=np.bool_)
        upserted = [] if self.updates is None else self.updates.overlay.matches
        return self.matches.take(positions, everything if known is None else known, upserted)

    def stored(self, positions: Ints) -> Encoded:
        """The items at (K,) positions as they are kept, all in the store or all upserted."""
        updated = self._updated(positions)
        if updated is not None:
            assert updated[0].all()
            items, places = updated[1], positions - len(self)
        else:
            index = np.empty((len(self), 0), dtype=np.uint16) if self.index is None else self.index
            items, places = Encoded(index, self.rows, self.behaviours), positions
        rows = torch.from_numpy(places)
        behaviours = None if items.behaviours is None else items.behaviours.pick(rows)
        return Encoded(items.index[places].astype(np.uint16), items.rows.pick(rows), behaviours)

    def title(self, position: int) -> str | None:
        """The title of the item at a position, if there is one."""
        if position >= len(self):
            assert self.updates is not None
            return self.updates.overlay.titles[position - len(self)]
        if self.titles is None:
            return None
        return self.name(position)[1]

    def name(self, position: int) -> tuple[int | str, str | None]:
        """Id and title of the item at a position that is not one of an upserted item; of a store with titles."""
        assert self.titles is not None
        batch, row = divmod(position, self.titles[0].num_rows)
        return self.titles[batch]["id"][row].as_py(), self.titles[batch]["title"][row].as_py()

    def names(self, positions: Ints) -> pa.Table:
        """Ids and titles of items whose positions ascend; of a store with titles."""
        assert self.titles is not None
        schema = self.titles[0].schema
        old = positions[positions < len(self)]
        first, last = (int(old[0]), int(old[-1])) if len(old) else (0, -1)
        table = pa.Table.from_batches(self.titles).slice(first, last + 1 - first).take(old - first)
        if len(old) == len(positions):
            return table
        assert self.updates is not None
        overlay, places = self.updates.overlay, (positions[len(old) :] - len(self)).tolist()
        ids = [int(overlay.ids[place]) if self.kind == "int" else str(overlay.ids[place]) for place in places]
        columns = (ids, [overlay.titles[place] for place in places])
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        return pa.concat_tables([table, pa.Table.from_arrays(arrays, schema=schema)])

    def _vectors(self, positions: Ints) -> Tensor:
        updated = self._updated(positions)
        places = torch.from_numpy(positions)
        if updated is None:
            return self.rows.take(places)
        new, items = updated
        return _either(self.rows, items.rows, places, torch.from_numpy(new), len(self))

    def _updated(self, positions: Ints) -> tuple[NDArray[np.bool_], Encoded] | None:
        """(K,) which positions are those of upserted items, and these; None if there are none."""
        if self.updates is None or self.updates.overlay.items is None:
            return None
        new = positions >= len(self)
        return (new, self.updates.overlay.items) if new.any() else None

    def _touch(self) -> None:
        for vectors in (self.rows, self.behaviours):
            for part in (vectors.values, vectors.scales) if vectors is not None else ():
                if part is not None:
                    touch(part)
        for array in (self.table.keys, self.table.slots, self.index):
            if array is not None:
                touch(array)
        for column in self.matches.features.columns.values() if self.matches is not None else ():
            for tensor in (column.values, column.offsets) if isinstance(column, Ragged) else (column,):
                touch(tensor)


def _either(old: Vectors, new: Vectors, places: Tensor, are_new: Tensor, base: int) -> Tensor:
    """(K, W) float32 vectors, some of ``old`` and some of ``new``, whose places begin at ``base``."""
    vectors = torch.empty((len(places), old.values.shape[1]))
    vectors[~are_new] = old.take(places[~are_new])
    vectors[are_new] = new.take(places[are_new] - base)
    return vectors


def _batches(path: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]
