"""What counted pair features compare, beside the item store: each item's ids of the fields that are matched."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from prerank.batch import Features, Ragged, joined
from prerank.publish.item_ids import Ints
from prerank.publish.store_files import map_tensor

FIELDS = "match.json"

Ids = list[Any]
"""Of one item: for each field its id, or the list of its ids."""


@dataclass(frozen=True)
class MatchColumns:
    """The fields' ids of R items in the order of the catalogue, and of an unknown item in the last row."""

    features: Features

    @staticmethod
    def write(directory: Path, parts: Iterable[Features], unknown: Features) -> None:
        """Write the ids of a catalogue, which comes in parts, and of an unknown item."""
        whole = joined([*parts, unknown])
        for number, column in enumerate(whole.columns.values()):
            if isinstance(column, Ragged):
                _save(directory / f"match.{number}.offsets.npy", column.offsets.numpy())
            values = column.values if isinstance(column, Ragged) else column
            _save(directory / f"match.{number}.npy", values.int().numpy())
        (directory / FIELDS).write_text(json.dumps(list(whole.columns)) + "\n", encoding="utf-8")

    @classmethod
    def open(cls, directory: Path) -> Self | None:
        """Map what ``write`` wrote; None if nothing is counted."""
        if not (directory / FIELDS).exists():
            return None
        columns: dict[str, torch.Tensor | Ragged] = {}
        rows = 0
        for number, name in enumerate(json.loads((directory / FIELDS).read_text(encoding="utf-8"))):
            values, offsets = map_tensor(directory / f"match.{number}.npy"), directory / f"match.{number}.offsets.npy"
            if offsets.exists():
                lists = Ragged(values, map_tensor(offsets))
                columns[name], rows = lists, len(lists.lengths)
            else:
                columns[name], rows = values, len(values)
        return cls(Features(columns, rows))

    def take(self, positions: Ints, known: NDArray[np.bool_], upserted: Sequence[Ids]) -> Features:
        """The ids of the items at (K,) positions of the store; unknown items have none.

        Args:
            positions: those of items that were upserted since begin at R.
            known: (K,) which positions mean something.
            upserted: the ids of the items that were upserted since.
        """
        unknown = self.features.rows - 1
        new = known & (positions >= unknown)
        taken = self.features.take(torch.from_numpy(np.where(known & ~new, positions, unknown)))
        if not new.any():
            return taken
        added = _features([upserted[place] for place in (positions[new] - unknown).tolist()], taken.columns)
        order = np.arange(len(positions))
        order[new] = len(positions) + np.arange(added.rows)
        return joined([taken, added]).take(torch.from_numpy(order))


def plain(features: Features) -> list[Ids]:
    """The ids of each row, as a log of updates has them."""
    columns = []
    for column in features.columns.values():
        if isinstance(column, Ragged):
            columns.append([part.tolist() for part in column.values.split(column.lengths.tolist())])
        else:
            columns.append(column.tolist())
    return [list(row) for row in zip(*columns, strict=True)]


def same(first: Features, second: Features) -> bool:
    """Whether both hold the same ids."""
    return plain(first) == plain(second)


def _features(rows: Sequence[Ids], like: Mapping[str, torch.Tensor | Ragged]) -> Features:
    columns: dict[str, torch.Tensor | Ragged] = {}
    for number, (name, column) in enumerate(like.items()):
        values = [row[number] for row in rows]
        if isinstance(column, Ragged):
            lengths = torch.tensor([0, *(len(ids) for ids in values)])
            flat = [value for ids in values for value in ids]
            columns[name] = Ragged(torch.tensor(flat, dtype=torch.int32), lengths.cumsum(0))
        else:
            columns[name] = torch.tensor(values, dtype=torch.int32)
    return Features(columns, len(rows))


def _save(path: Path, array: NDArray[np.int32] | NDArray[np.int64]) -> None:
    np.save(path, array, allow_pickle=False)
