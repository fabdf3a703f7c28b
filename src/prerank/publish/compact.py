"""Compaction: the current generation and its updates become the next generation."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from prerank.errors import ArtefactError
from prerank.publish.bundle import FILES
from prerank.publish.encode import CHUNK, Progress
from prerank.publish.files import aside, exclusive, new_generation, refuse_existing, seal
from prerank.publish.follower import UPDATES, Layout
from prerank.publish.generation import GENERATIONS, STORE, locate, open_generation
from prerank.publish.item_ids import Ints
from prerank.publish.match_columns import MatchColumns, same
from prerank.publish.overlay import Overlay
from prerank.publish.publish import switch
from prerank.publish.store import ItemStore
from prerank.publish.store_files import StoreFiles
from prerank.publish.update_log import LogReader, append


def compact(to: Path, progress: Progress | None = None) -> Path:
    """Write the current generation with its upserts and deletes as the next one, and switch to it.

    Every representation is copied bit by bit and compared before the switch. Updates go on meanwhile: those that come
    after the beginning are handed over to the next generation's log. Whatever fails before the switch, an error or a
    kill, leaves the current generation and its updates in place.

    Args:
        to: the published directory.
        progress: called with (items written, items in all).

    Returns:
        The directory of the next generation, or of the current one if it has no updates.

    Raises:
        ArtefactError: something is damaged, no item is left, ``to`` cannot be written or has gone to another generation
            meanwhile, or another publish is running there.
    """
    with exclusive(to), aside(to / GENERATIONS / ".part") as work:
        old = open_generation(locate(to), "full", planned=False)
        updates = old.store.updates
        if updates is None or not updates.overlay.layers:
            return locate(to)
        overlay, end = updates.overlay, updates.reader.end
        generation = new_generation(secrets.token_hex(4))  # the model's files are the same, so their hash names nothing
        target = to / GENERATIONS / generation
        refuse_existing(target)
        for name in FILES:
            shutil.copyfile(locate(to) / name, work / name)
        positions, keys = _survivors(old.store, overlay)
        if not len(positions):
            raise ArtefactError(f"{to}: every item is deleted; nothing is published")
        _write(old.store, positions, keys, replace(updates.layout, generation=generation), work / STORE, progress)
        seal(work, generation, old.bundle.name)
        _compare(old.store, ItemStore.open(work / STORE), positions, keys)

        def hand_over() -> None:
            if locate(to).name != old.name:
                raise ArtefactError(f"{to}: went to generation {locate(to).name} meanwhile; nothing is published")
            later = LogReader(updates.reader.path, end).read()
            if later:
                layout = replace(updates.layout, generation=generation)
                append(to / UPDATES / f"{generation}.log", 0, [layout.beginning(), *later])

        switch(to, work, target, hand_over)
    return target


def _survivors(store: ItemStore, overlay: Overlay) -> tuple[Ints, Ints]:
    """Positions and keys of the items that are there, the upserted ones last."""
    parts = range(0, len(store), CHUNK)
    changed = [overlay.changed(store.table.keys[start : start + CHUNK]) for start in parts]
    old = np.flatnonzero(~np.concatenate(changed))
    places, keys = overlay.live()
    return np.concatenate([old, len(store) + places]), np.concatenate([store.table.keys[old], keys])


def _write(
    store: ItemStore, positions: Ints, keys: Ints, layout: Layout, directory: Path, progress: Progress | None
) -> None:
    """The store of the items at (R,) positions."""
    files = StoreFiles(
        directory, len(positions), layout.width, layout.precision, layout.index_columns, layout.behaviour_width
    )
    directory.mkdir()
    files.create()
    for start, part in _parts(store, positions):
        files.write(start, store.stored(part))
        if progress:
            progress(start + len(part), len(positions))
    unknown = None if store.behaviours is None else store.behaviours.part(len(store), len(store) + 1)
    files.finish(layout.generation, layout.kind, layout.salt, keys, unknown)
    if store.matches is not None:
        matched = (store.matched(part) for _, part in _parts(store, positions))
        MatchColumns.write(directory, matched, store.matched(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.bool_)))
    if store.titles is not None:
        with pa.ipc.new_file(str(directory / "titles.arrow"), store.titles[0].schema) as file:
            for start in range(0, len(positions), CHUNK):
                file.write_table(store.names(positions[start : start + CHUNK]).combine_chunks())


def _compare(old: ItemStore, new: ItemStore, positions: Ints, keys: Ints) -> None:
    """Check that the new store finds every key, and bit by bit what the old one has of it.

    Raises:
        ArtefactError: it does not.
    """
    for start, part in _parts(old, positions):
        places, found = new.table.find(keys[start : start + len(part)])
        equal = found.all() and new.stored(places).equals(old.stored(part))
        if equal and old.matches is not None:
            equal = new.matches is not None and same(new.matched(places), old.matched(part))
        if not equal:
            raise ArtefactError(
                f"compaction: items {start} to {start + len(part) - 1} were not copied; nothing is published"
            )


def _parts(store: ItemStore, positions: Ints) -> Iterator[tuple[int, Ints]]:
    """Starts and pieces of (R,) positions, each piece in the store or upserted since."""
    old = int(np.count_nonzero(positions < len(store)))
    for begin, end in ((0, old), (old, len(positions))):
        for start in range(begin, end, CHUNK):
            yield start, positions[start : min(end, start + CHUNK)]
