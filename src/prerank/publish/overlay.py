"""Upserts and deletes on top of a store, in memory: snapshots that never change, made one from the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prerank.publish.item_ids import Ints
from prerank.publish.key_table import KeyTable
from prerank.publish.precision import Vectors
from prerank.publish.store_files import Encoded

DELETED = -1
GROWTH = 8  # an older layer stays alone while it is more than so many times larger than the newer one


@dataclass(frozen=True)
class Layer:
    """The latest state of some keys: the place of each among the overlay's items, or ``DELETED``."""

    table: KeyTable
    places: Ints

    @classmethod
    def of(cls, keys: Ints, places: Ints) -> Self:
        """A layer of keys that may repeat; of equal ones the last counts."""
        _, last = np.unique(keys[::-1], return_index=True)
        kept = np.sort(len(keys) - 1 - last)
        return cls(KeyTable.build(keys[kept]), places[kept])

    def under(self, newer: Self) -> Self:
        """Both in one."""
        keys = np.concatenate([self.table.keys, newer.table.keys])
        return self.of(keys, np.concatenate([self.places, newer.places]))


@dataclass(frozen=True)
class Overlay:
    """What has changed since the store was written.

    Items are only ever appended: an item that is upserted again takes a new place, so that a row which somebody reads
    is never written to, and a position stays right for as long as it is held. Layers of keys are merged as they grow;
    a handful of them holds a million keys.

    Attributes:
        layers: the changed keys, oldest first.
        items: every item that was upserted since, with room to grow; None before the first.
        count: how many of them there are.
        ids: the id of each, as it was given.
        titles: the title of each, for people.
        matches: the ids of each that histories are compared with; empty where nothing is counted.
    """

    layers: tuple[Layer, ...] = ()
    items: Encoded | None = None
    count: int = 0
    ids: list[int | str] = field(default_factory=list)
    titles: list[str | None] = field(default_factory=list)
    matches: list[list[Any]] = field(default_factory=list)

    def upserted(
        self,
        keys: Ints,
        items: Encoded,
        ids: list[int | str],
        titles: list[str | None],
        matches: Sequence[list[Any]] = (),
    ) -> Overlay:
        """With R more items. Only the newest overlay may be extended, by one thread at a time."""
        places = np.arange(self.count, self.count + len(keys))
        room = items if self.items is None else _appended(self.items, self.count, items)
        self.ids.extend(ids)
        self.titles.extend(titles)
        self.matches.extend(matches)
        grown = replace(self, items=room, count=self.count + len(keys))
        return grown._with(Layer.of(keys, places))

    def deleted(self, keys: Ints) -> Overlay:
        """Without the items with these keys."""
        return self._with(Layer.of(keys, np.full(len(keys), DELETED)))

    def change(self, keys: Ints, positions: Ints, found: NDArray[np.bool_], base: int) -> None:
        """Correct what a store of ``base`` items says of (K,) keys; its positions end where the overlay's begin."""
        for layer in self.layers:
            rows, changed = layer.table.find(keys)
            places = layer.places[rows[changed]]
            positions[changed] = base + places
            found[changed] = places != DELETED

    def changed(self, keys: Ints) -> NDArray[np.bool_]:
        """(K,) which keys the overlay says something of."""
        changed = np.zeros(len(keys), dtype=np.bool_)
        for layer in self.layers:
            changed |= layer.table.find(keys)[1]
        return changed

    def live(self) -> tuple[Ints, Ints]:
        """Places and keys of the items that are there, in the order in which they came."""
        if not self.layers:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        whole = self.layers[0]
        for layer in self.layers[1:]:
            whole = whole.under(layer)
        there = np.flatnonzero(whole.places != DELETED)
        order = there[np.argsort(whole.places[there])]
        return whole.places[order], whole.table.keys[order]

    def _with(self, layer: Layer) -> Overlay:
        layers = list(self.layers)
        while layers and len(layers[-1].table) <= GROWTH * len(layer.table):
            layer = layers.pop().under(layer)
        return replace(self, layers=(*layers, layer))


def _appended(room: Encoded, count: int, items: Encoded) -> Encoded:
    """``items`` behind the first ``count``, in place where there is room, which no older overlay reads."""
    needed = count + len(items)
    if needed > len(room):
        room = _roomier(room, count, max(needed, 2 * count))
    stop = slice(count, needed)
    room.index[stop] = items.index
    for mine, other in ((room.rows, items.rows), (room.behaviours, items.behaviours)):
        if mine is not None and other is not None:
            mine.values[stop] = other.values
            if mine.scales is not None and other.scales is not None:
                mine.scales[stop] = other.scales
    return room


def _roomier(room: Encoded, count: int, size: int) -> Encoded:
    def longer(tensor: Tensor) -> Tensor:
        grown = torch.empty((size, *tensor.shape[1:]), dtype=tensor.dtype)
        grown[:count] = tensor[:count]
        return grown

    def all_longer(vectors: Vectors) -> Vectors:
        return Vectors(longer(vectors.values), None if vectors.scales is None else longer(vectors.scales))

    index: NDArray[Any] = np.empty((size, room.index.shape[1]), dtype=np.uint16)
    index[:count] = room.index[:count]
    return Encoded(index, all_longer(room.rows), None if room.behaviours is None else all_longer(room.behaviours))
