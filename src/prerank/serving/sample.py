"""Some items of a catalogue, for people who look at a service."""

from __future__ import annotations

import numpy as np

from prerank.publish.store import ItemStore
from prerank.serving.request import Id


def sample(store: ItemStore, count: int, rng: np.random.Generator) -> list[tuple[Id, str | None]]:
    """Ids and titles of at most ``count`` items that can be ranked, in the order of the catalogue.

    Upserted items are not among them. A store of text ids without titles keeps hashes only: of it there is nothing.

    Args:
        store: the catalogue.
        count: how many.
        rng: what they are drawn with.
    """
    positions = np.sort(rng.choice(len(store), min(count, len(store)), replace=False, shuffle=False))
    if store.titles is not None:
        names = [store.name(int(position)) for position in positions]
    elif store.kind == "int":
        names = [(key, None) for key in store.table.keys[positions].tolist()]
    else:
        return []
    found, known = store.lookup([item for item, _ in names])
    return [
        name for name, there, at, drawn in zip(names, known, found, positions, strict=True) if there and at == drawn
    ]
