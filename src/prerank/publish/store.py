"""The item store: an encoded catalogue on disk, mapped into memory and shared between processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from prerank.publish.item_ids import Ints, Kind, request_keys

Precision = Literal["float32", "float16"]


@dataclass(frozen=True)
class ItemStore:
    """R items in the order of their keys.

    Attributes:
        generation: the generation that the rows were encoded for.
        kind: whether ids are integers or texts.
        keys: (R,) int64, sorted.
        index: (R, index columns) uint8 or uint16, the whole-number columns of ``model.item``; None without any.
        rows: (R, W) float32 or float16, the other columns.
        behaviours: (R + 1, D) of the same type, what a history sees of each item, the last row being an unknown
            item; None where histories are records.
        titles: R titles for people; None where the schema has none.
    """

    generation: str
    kind: Kind
    keys: Ints
    index: NDArray[Any] | None
    rows: NDArray[Any]
    behaviours: NDArray[Any] | None
    titles: pa.ChunkedArray | None

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Map the store at ``directory``, whose files the caller has verified."""
        facts = json.loads((directory / "store.json").read_text(encoding="utf-8"))
        titles = directory / "titles.arrow"
        return cls(
            generation=facts["generation"],
            kind=facts["kind"],
            keys=_map(directory / "ids.npy"),
            index=_map(directory / "index.npy") if facts["index_columns"] else None,
            rows=_map(directory / "rows.npy"),
            behaviours=_map(directory / "behaviours.npy") if facts["behaviour_width"] else None,
            titles=pa.ipc.open_file(pa.memory_map(str(titles))).read_all()["title"] if titles.exists() else None,
        )

    def __len__(self) -> int:
        return len(self.keys)

    def lookup(self, ids: Sequence[Any], place: str = "ids") -> tuple[Ints, NDArray[np.bool_]]:
        """Where each id stands in the store.

        Args:
            ids: K integers or texts; 25 and "25" are the same id.
            place: what a message calls the list.

        Returns:
            (K,) positions, those of unknown ids meaning nothing, and (K,) which ids are known.

        Raises:
            RequestError: an id is neither an integer nor a text.
        """
        keys, possible = request_keys(ids, self.kind, place)
        positions = np.minimum(np.searchsorted(self.keys, keys), len(self) - 1)
        return positions, possible & (self.keys[positions] == keys)

    def gather(self, positions: Ints) -> Tensor:
        """(K, Wv) float32 representations of the items at (K,) positions, laid out as ``model.item`` gives them."""
        leading = 0 if self.index is None else self.index.shape[1]
        items = np.empty((len(positions), leading + self.rows.shape[1]), dtype=np.float32)
        if self.index is not None:
            items[:, :leading] = self.index[positions]
        items[:, leading:] = self.rows[positions]
        return torch.from_numpy(items)

    def remember(self, positions: Ints, known: NDArray[np.bool_]) -> Tensor:
        """(L, D) float32 behaviour embeddings of L past items; unknown ones are the out-of-vocabulary behaviour."""
        assert self.behaviours is not None
        rows = self.behaviours[np.where(known, positions, len(self))]
        return torch.from_numpy(rows.astype(np.float32, copy=False))


def _map(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
