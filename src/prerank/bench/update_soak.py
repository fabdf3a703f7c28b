"""Writers of updates are killed at random moments; what is replayed must be what a clean rebuild gives."""

from __future__ import annotations

import os
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from prerank.data.build import build
from prerank.data.encoder import Encoder
from prerank.data.protocol import preset
from prerank.data.sources.synthetic import checkerboard
from prerank.models.registry import create, model_config
from prerank.publish.bundle import Bundle
from prerank.publish.encode import encode_catalogue
from prerank.publish.generation import Generation, locate, log_of, open_generation
from prerank.publish.publish import publish_bundle
from prerank.publish.store import ItemStore
from prerank.publish.update_log import LogReader
from prerank.publish.updates import ItemUpdates

LARGEST = 200  # items of a batch
LONGEST = 0.3  # seconds until a kill
DELETING = 0.3  # share of batches that delete
NEW = 400  # ids that the catalogue does not have at the beginning


class Soak:
    """A published directory whose writers are killed, and one that gets the same updates undisturbed."""

    def __init__(self, directory: Path, seed: int) -> None:
        """Publish a small untrained FIT twice."""
        self.seed = seed
        self.directory, self.twin_directory = directory / "killed", directory / "twin"
        world = build(checkerboard(users=60, items=200, events_per_user=12, seed=seed), preset("din"))
        encoder, config = Encoder.fit(world), model_config({"name": "fit", "embedding_std": 1.0}, "soak")
        torch.manual_seed(seed)
        self.bundle = Bundle(create(config, encoder.inputs), encoder, config, {})
        publish_bundle(self.bundle, world, self.directory)
        shutil.copytree(self.directory, self.twin_directory)
        self.catalogue = world.items.to_dicts()
        self.item_id = encoder.schema.item_id
        self.ids = [str(item[self.item_id]) for item in self.catalogue] + [f"new-{number}" for number in range(NEW)]
        self.expected = {str(item[self.item_id]): item for item in self.catalogue}
        self.twin = ItemUpdates.open(self.twin_directory)
        self.following = self._open().store  # opened once, it follows through all kills
        self.batches = 0

    def batch(self, number: int) -> tuple[list[dict[str, Any]], list[str]]:
        """The items and the ids (one of them empty) of the ``number``-th update."""
        rng = np.random.default_rng([self.seed, number])
        ids = rng.choice(self.ids, size=rng.integers(1, LARGEST), replace=False).tolist()
        if rng.random() < DELETING:
            return [], ids
        rows = rng.integers(len(self.catalogue), size=len(ids))
        return [{**self.catalogue[row], self.item_id: name} for row, name in zip(rows, ids, strict=True)], []

    def kill_one(self, after: float) -> dict[str, Any]:
        """Start a writer, kill it after so many seconds, and compare what it left."""
        acknowledged = self._killed(self.batches, after)
        path = self._log()
        records = len(LogReader(path).read()) - 1 if path.exists() else 0
        size = path.stat().st_size if path.exists() else 0
        reader = LogReader(path)
        reader.read()
        written = max(0, records) - self.batches
        for number in range(self.batches, self.batches + written):
            self._apply(number)
        self.batches += written
        return {
            "acknowledged": acknowledged,
            "written": written,
            "lost": max(0, acknowledged - written),
            "invented": max(0, written - acknowledged - 1),
            "torn_bytes": size - reader.end,
            "replayed_differs": not self._same(self._open().store),
            "follower_differs": not self._same(self.following),
        }

    def differs_from_rebuild(self, directory: Path) -> float:
        """The largest difference of the replayed items from those of the final catalogue encoded at once."""
        table = pl.DataFrame(list(self.expected.values()))
        encode_catalogue(self.bundle, table.lazy(), directory, "g", "m", dtype="float32", progress=None)
        rebuilt, replayed = ItemStore.open(directory), self._open().store
        if not np.array_equal(rebuilt.lookup(self.ids)[1], replayed.lookup(self.ids)[1]):
            return float("inf")
        ids = list(self.expected)
        first, second = (store.gather(store.lookup(ids)[0]) for store in (rebuilt, replayed))
        return float((first - second).abs().max())

    def _killed(self, first: int, after: float) -> int:
        """How many updates, from the ``first`` on, a writer acknowledged before it was killed."""
        generation = self._open()
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork among threads: the child uses none of them
            child = os.fork()
        if child == 0:
            self._write_on(generation, first, writing)
        os.close(writing)
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as acknowledged:
            return len(acknowledged.read())

    def _write_on(self, generation: Generation, first: int, acknowledge: int) -> None:
        """Write update after update, in a process of its own that never returns."""
        try:
            updates = ItemUpdates(self.directory, generation)
            number = first
            while True:
                items, ids = self.batch(number)
                updates.upsert(items) if items else updates.delete(ids)
                os.write(acknowledge, b".")
                number += 1
        finally:
            os._exit(1)

    def _apply(self, number: int) -> None:
        items, ids = self.batch(number)
        self.twin.upsert(items) if items else self.twin.delete(ids)
        self.expected.update({item[self.item_id]: item for item in items})
        for name in ids:
            self.expected.pop(name, None)

    def _same(self, store: ItemStore) -> bool:
        """Whether a store holds exactly the expected items, bit by bit those of the undisturbed twin."""
        twin = self.twin.generation.store
        positions, found = store.lookup(self.ids)
        twins, twin_found = twin.lookup(self.ids)
        expected = np.array([name in self.expected for name in self.ids])
        if not (np.array_equal(found, expected) and np.array_equal(twin_found, expected)):
            return False
        rows = torch.equal(store.gather(positions[found]), twin.gather(twins[found]))
        return rows and torch.equal(store.remember(positions, found), twin.remember(twins, twin_found))

    def _open(self) -> Generation:
        return open_generation(locate(self.directory), planned=False)

    def _log(self) -> Path:
        path = log_of(locate(self.directory))
        assert path is not None
        return path


def update_soak(directory: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill so many writers.

    Args:
        directory: an empty one.
        kills: writers to kill.
        seed: of the updates and the moments.

    Returns:
        What was written, and how much of it was lost, invented or differed; the latter are zero.
    """
    with _one_thread():
        soak, rng = Soak(directory, seed), np.random.default_rng(seed)
        results = [soak.kill_one(float(rng.uniform(0, LONGEST))) for _ in range(kills)]
        difference = soak.differs_from_rebuild(directory / "rebuilt")
    total = {name: sum(result[name] for result in results) for name in results[0]}
    return {
        "seed": seed,
        "kills": kills,
        **{name: int(value) for name, value in total.items()},
        "kills_with_torn_bytes": sum(result["torn_bytes"] > 0 for result in results),
        "kills_between_disk_and_answer": sum(result["written"] > result["acknowledged"] for result in results),
        "items_at_the_end": len(soak.expected),
        "largest_difference_from_rebuild": difference,
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """Forked processes have no pool of threads, and equal bits need equal sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
