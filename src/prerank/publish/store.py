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

from prerank.publish.item_ids import Ints, Kind, request_keys
from prerank.publish.key_table import KeyTable
from prerank.publish.precision import Precision, Vectors
from prerank.publish.store_files import map_array, map_vectors, read_facts, touch


@dataclass(frozen=True)
class ItemStore:
    """R items in the order of the catalogue.

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
        titles: batches of ids and titles for people, all but the last of the same length; None where the schema has
            no title.
    """

    generation: str
    kind: Kind
    salt: int
    table: KeyTable
    index: NDArray[Any] | None
    precision: Precision
    rows: Vectors
    behaviours: Vectors | None
    titles: list[pa.RecordBatch] | None

    @classmethod
    def open(cls, directory: Path, *, preload: bool = False) -> Self:
        """Map the store at ``directory``, whose files the caller has verified.

        Args:
            directory: the store.
            preload: read everything now, so that no request waits for the disk; it stays shared between processes.

        Raises:
            ArtefactError: the store is of another layout.
        """
        facts = read_facts(directory)
        precision: Precision = facts["dtype"]
        titles = directory / "titles.arrow"
        store = cls(
            generation=facts["generation"],
            kind=facts["kind"],
            salt=int(facts["salt"], 16),
            table=KeyTable(map_array(directory / "ids.npy"), map_array(directory / "slots.npy")),
            index=map_array(directory / "index.npy") if facts["index_columns"] else None,
            precision=precision,
            rows=map_vectors(directory, "rows", precision),
            behaviours=map_vectors(directory, "behaviours", precision) if facts["behaviour_width"] else None,
            titles=_batches(titles) if titles.exists() else None,
        )
        if preload:
            store._touch()
        return store

    def __len__(self) -> int:
        return len(self.table)

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
        return positions, possible & found

    def gather(self, positions: Ints) -> Tensor:
        """(K, Wv) float32 representations of the items at (K,) positions, laid out as ``model.item`` gives them."""
        rows = self.rows.take(torch.from_numpy(positions))
        if self.index is None:
            return rows
        return torch.cat([torch.from_numpy(self.indices(positions).astype(np.float32)), rows], dim=1)

    def indices(self, positions: Ints) -> NDArray[Any]:
        """(K, index columns) the whole-number columns of the items at (K,) positions."""
        assert self.index is not None
        indices: NDArray[Any] = self.index[positions]
        return indices

    def floats(self, positions: Ints) -> tuple[NDArray[np.float32], Ints]:
        """What ``gather`` gives after the index columns, without a copy where the rows are kept as float32.

        Returns:
            (..., W) float32 rows, and (K,) the row among them of each of the items at (K,) positions.
        """
        if self.precision == "float32":
            return self.rows.values.numpy(), positions
        return self.rows.take(torch.from_numpy(positions)).numpy(), np.arange(len(positions))

    def remember(self, positions: Ints, known: NDArray[np.bool_]) -> Tensor:
        """(L, D) float32 behaviour embeddings of L past items; unknown ones are the out-of-vocabulary behaviour."""
        assert self.behaviours is not None
        return self.behaviours.take(torch.from_numpy(np.where(known, positions, len(self))))

    def title(self, position: int) -> str | None:
        """The title of the item at a position, if there is one."""
        if self.titles is None:
            return None
        batch, row = divmod(position, self.titles[0].num_rows)
        title: str | None = self.titles[batch]["title"][row].as_py()
        return title

    def _touch(self) -> None:
        for vectors in (self.rows, self.behaviours):
            for part in (vectors.values, vectors.scales) if vectors is not None else ():
                if part is not None:
                    touch(part)
        for array in (self.table.keys, self.table.slots, self.index):
            if array is not None:
                touch(array)


def _batches(path: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]
