"""The files of an item store: written by row ranges, opened as memory maps."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prerank.errors import ArtefactError
from prerank.publish.item_ids import Ints, Kind
from prerank.publish.key_table import KeyTable
from prerank.publish.precision import ON_DISK, TORCH, Precision, Vectors

LAYOUT = 2
PAGE = 4096


@dataclass(frozen=True)
class Encoded:
    """R items in the form in which a store keeps them.

    Attributes:
        index: (R, index columns) uint16, the whole-number columns of ``model.item``.
        rows: the other columns.
        behaviours: what a history sees of each item; None where histories are records.
    """

    index: NDArray[np.uint16]
    rows: Vectors
    behaviours: Vectors | None

    def __len__(self) -> int:
        return len(self.rows)

    def equals(self, other: Encoded) -> bool:
        """Whether both are the same, bit by bit."""
        pairs = [(self.rows, other.rows), (self.behaviours, other.behaviours)]
        same = all(_same(mine, theirs) for mine, theirs in pairs)
        return same and np.array_equal(self.index, other.index)


@dataclass(frozen=True)
class StoreFiles:
    """The files of a store of known size in ``directory``, which are all written with their final length at once.

    Plain writes, since a memory map over a full disk kills the process instead of raising an error. Row ranges may be
    written in any order, and again.
    """

    directory: Path
    rows: int
    width: int
    precision: Precision
    index_columns: int
    behaviour_width: int

    def create(self) -> None:
        """Make every file, of zeros."""
        for name, shape, dtype in self._arrays():
            with (self.directory / name).open("wb") as file:
                _write_header(file, shape, dtype)
                file.truncate(file.tell() + int(np.prod(shape)) * dtype.itemsize)

    def write(self, start: int, items: Encoded) -> None:
        """Write items to the rows from ``start`` on, on disk before this returns."""
        self._put("index.npy", start, items.index)
        self._put_vectors("rows", start, items.rows)
        if items.behaviours is not None:
            self._put_vectors("behaviours", start, items.behaviours)

    def finish(self, generation: str, kind: Kind, salt: int, keys: Ints, unknown: Vectors | None) -> None:
        """Write what is known at the end: the behaviour of an unknown item, the table of ids, and the facts."""
        if unknown is not None:
            self._put_vectors("behaviours", self.rows, unknown)
        if self.index_columns:
            index = np.load(self.directory / "index.npy", allow_pickle=False)
            if index.max(initial=0) < 256:
                np.save(self.directory / "index.npy", index.astype(np.uint8), allow_pickle=False)
        np.save(self.directory / "ids.npy", keys, allow_pickle=False)
        np.save(self.directory / "slots.npy", KeyTable.build(keys).slots, allow_pickle=False)
        facts = {
            "layout": LAYOUT,
            "generation": generation,
            "kind": kind,
            "salt": f"{salt:016x}",  # as text, since other readers of JSON keep 53 bits
            "rows": self.rows,
            "width": self.width,
            "dtype": self.precision,
            "index_columns": self.index_columns,
            "behaviour_width": self.behaviour_width,
        }
        (self.directory / "store.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    def _arrays(self) -> Iterator[tuple[str, tuple[int, ...], np.dtype[Any]]]:
        if self.index_columns:
            yield "index.npy", (self.rows, self.index_columns), np.dtype(np.uint16)
        vectors = [("rows", self.rows, self.width)]
        if self.behaviour_width:
            vectors.append(("behaviours", self.rows + 1, self.behaviour_width))
        for name, rows, width in vectors:
            yield f"{name}.npy", (rows, width), ON_DISK[self.precision]
            if self.precision == "int8":
                yield f"{name}.scales.npy", (rows,), np.dtype(np.float32)

    def _put_vectors(self, name: str, start: int, vectors: Vectors) -> None:
        self._put(f"{name}.npy", start, to_disk(vectors.values))
        if vectors.scales is not None:
            self._put(f"{name}.scales.npy", start, vectors.scales.numpy())

    def _put(self, name: str, start: int, values: NDArray[Any]) -> None:
        if not values.size:
            return
        data = np.ascontiguousarray(values).data.cast("B")
        with (self.directory / name).open("r+b", buffering=0) as file:
            rows = self.rows + (name.startswith("behaviours"))
            file.seek(os.fstat(file.fileno()).st_size - (rows - start) * (len(data) // len(values)))
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())


def read_facts(directory: Path) -> Mapping[str, Any]:
    """The facts of a store.

    Raises:
        ArtefactError: the store is of another layout.
    """
    facts: dict[str, Any] = json.loads((directory / "store.json").read_text(encoding="utf-8"))
    if facts.get("layout") != LAYOUT:
        raise ArtefactError(
            f"{directory}: an item store of layout {facts.get('layout', 1)}, this prerank reads layout {LAYOUT}; "
            "publish again"
        )
    return facts


def map_array(path: Path) -> NDArray[Any]:
    """A read-only memory map of an .npy file, as a plain array: each operation on the subclass memmap takes longer."""
    array: NDArray[Any] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    return array


def map_vectors(directory: Path, name: str, precision: Precision) -> Vectors:
    """Read-only memory maps of stored vectors."""
    scales = map_tensor(directory / f"{name}.scales.npy") if precision == "int8" else None
    values = map_tensor(directory / f"{name}.npy")
    return Vectors(values.view(torch.bfloat16) if precision == "bfloat16" else values, scales)


def map_tensor(path: Path) -> Tensor:
    """A read-only memory map of an .npy file as a tensor."""
    array = map_array(path)
    if array.dtype == np.uint16:
        array = array.view(np.int16)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def to_disk(values: Tensor) -> NDArray[Any]:
    """The array whose bytes are those of stored vectors."""
    if values.dtype == torch.bfloat16:
        return values.contiguous().view(torch.int16).numpy().view(np.uint16)
    return values.numpy()


def from_disk(data: bytes, shape: tuple[int, ...], precision: Precision) -> Tensor:
    """The tensor of stored vectors with these bytes."""
    if not data:
        return torch.empty(shape, dtype=TORCH[precision])
    return torch.frombuffer(bytearray(data), dtype=TORCH[precision]).view(shape)


def touch(array: NDArray[Any] | Tensor) -> None:
    """Read one number of every page, so that no request waits for the disk."""
    array.reshape(-1)[:: PAGE // array.itemsize].sum()


def _same(first: Vectors | None, second: Vectors | None) -> bool:
    if first is None or second is None:
        return first is second
    if first.scales is not None and second.scales is not None and not torch.equal(first.scales, second.scales):
        return False
    return np.array_equal(to_disk(first.values).view(np.uint8), to_disk(second.values).view(np.uint8))


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
