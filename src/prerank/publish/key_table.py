"""From 64-bit keys to the positions where they stand, a few thousand at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from prerank.publish.item_ids import Ints, mixed


@dataclass(frozen=True)
class KeyTable:
    """R distinct keys and a hash table of their positions, open addressing with linear probing.

    Finding 2,000 random keys of a million costs about two cache misses a key, which overlap, instead of the twenty
    dependent ones of a binary search.

    Attributes:
        keys: (R,) int64, in any order.
        slots: (2^bits + probes,) int32 positions in ``keys``, -1 where there is none, the last one always -1; at most
            half are taken. Keys stand in the order of the slot where their probing begins.
    """

    keys: Ints
    slots: NDArray[np.int32]

    @classmethod
    def build(cls, keys: Ints) -> Self:
        """The table of R distinct keys."""
        bits = _bits(len(keys))
        home = _home(keys, bits)
        order = np.argsort(home, kind="stable")
        rank = np.arange(len(keys))
        # Every key takes the first slot from its home on that no earlier key has taken.
        slot = rank + np.maximum.accumulate(home[order] - rank)
        slots = np.full(max(1 << bits, int(slot[-1]) + 1 if len(slot) else 0) + 1, -1, dtype=np.int32)
        slots[slot] = order
        return cls(keys, slots)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, wanted: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """(K,) positions of keys, those of missing keys meaning nothing, and (K,) which keys are there."""
        if not len(self):
            return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
        slot = _home(wanted, _bits(len(self)))
        positions = self.slots.take(slot).astype(np.int64)
        found = self._are(positions, wanted)
        probing = np.flatnonzero(~found & (positions >= 0))
        while len(probing):
            slot[probing] += 1
            next_positions = self.slots.take(slot[probing])
            positions[probing] = next_positions
            equal = self._are(next_positions, wanted[probing])
            found[probing] = equal
            probing = probing[~equal & (next_positions >= 0)]
        return positions, found

    def _are(self, positions: NDArray[Any], wanted: Ints) -> NDArray[np.bool_]:
        equal: NDArray[np.bool_] = (self.keys.take(positions, mode="wrap") == wanted) & (positions >= 0)
        return equal


def _bits(count: int) -> int:
    return max(3, (2 * count - 1).bit_length())


def _home(keys: Ints, bits: int) -> Ints:
    """(K,) the slot where the search for each key begins."""
    return (mixed(keys.view(np.uint64)) >> np.uint64(64 - bits)).view(np.int64)
