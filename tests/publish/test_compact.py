"""Compaction gives the next generation what the current one had, whenever it is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import torch

import prerank
from prerank.data.encoder import Encoder
from prerank.data.log import Dataset
from prerank.errors import ArtefactError
from prerank.models.registry import create, model_config
from prerank.publish import compact as compaction
from prerank.publish.bundle import Bundle
from prerank.publish.compact import compact
from prerank.publish.generation import locate, make_current, open_generation
from prerank.publish.precision import PRECISIONS, Precision
from prerank.publish.publish import publish_bundle
from prerank.publish.store import ItemStore
from prerank.publish.updates import ItemUpdates

IDS = [f"item-{number:04}" for number in range(80)] + [f"n{number}" for number in range(50)]


@pytest.fixture(scope="module")
def titled(world: Dataset) -> Dataset:
    items = world.items.with_columns(name="the " + pl.col("item_id"))
    return replace(world, items=items, schema=world.schema.model_copy(update={"title": "name"}))


@pytest.fixture(scope="module")
def published(titled: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    """For each precision a published directory with updates."""
    encoder, config = Encoder.fit(titled), model_config({"name": "fit", "embedding_std": 1.0, "tower": [8]}, "test")
    torch.manual_seed(0)
    bundle = Bundle(create(config, encoder.inputs).eval(), encoder, config, {})
    places = {}
    for precision in PRECISIONS:
        places[precision] = tmp_path_factory.mktemp(precision)
        publish_bundle(bundle, titled, places[precision], precision)
        updates = ItemUpdates.open(places[precision])
        updates.upsert(
            [{"item_id": f"n{number}", "category": "category-1", "name": f"no. {number}"} for number in range(40)]
        )
        updates.delete(["item-0003", "item-0070", "n5", "n39"])
        updates.upsert([{"item_id": name, "category": "category-3"} for name in ("item-0010", "n7", "item-0070")])
    return places


def copied(published: dict[Precision, Path], tmp_path: Path, precision: Precision = "float32") -> Path:
    return Path(shutil.copytree(published[precision], tmp_path / "published"))


def state(store: ItemStore) -> tuple[list[bool], torch.Tensor, torch.Tensor, list[str | None]]:
    positions, known = store.lookup(IDS)
    titles = [store.title(position) for position in positions[known].tolist()]
    return known.tolist(), store.gather(positions[known]), store.remember(positions, known), titles


def same(first: ItemStore, second: ItemStore) -> bool:
    (known, rows, past, titles), (other_known, other_rows, other_past, other_titles) = state(first), state(second)
    return (
        known == other_known
        and titles == other_titles
        and torch.equal(rows, other_rows)
        and torch.equal(past, other_past)
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("chunk", [7, 65_536])
def test_the_next_generation_is_the_old_one_with_its_updates(
    published: dict[Precision, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, chunk: int
) -> None:
    monkeypatch.setattr(compaction, "CHUNK", chunk)
    place = copied(published, tmp_path, precision)
    old = open_generation(locate(place))
    seen: list[int] = []
    target = compact(place, lambda done, _: seen.append(done))
    new = open_generation(locate(place))
    assert locate(place) == target and new.name == target.name != old.name
    assert same(old.store, new.store)
    assert new.store.updates is not None and not new.store.updates.overlay.layers
    assert len(new.store) == seen[-1] == 80 - 1 + 38 and new.store.precision == precision
    names = pa.ipc.open_file(str(target / "store" / "titles.arrow")).read_all().to_pydict()
    assert sorted(names["id"]) == sorted(name for name, known in zip(IDS, state(new.store)[0], strict=True) if known)
    assert new.store.title(int(new.store.lookup(["n3"])[0][0])) == "no. 3"
    # and once more
    assert compact(place) == target
    ItemUpdates.open(place).delete(["n3"])
    third = open_generation(compact(place)).store
    assert len(third) == len(new.store) - 1 and not third.lookup(["n3"])[1].any()


def test_updates_that_come_meanwhile_are_handed_over(
    published: dict[Precision, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copied(published, tmp_path)
    old = open_generation(locate(place))
    updates = ItemUpdates.open(place)
    compare = compaction._compare

    def meanwhile(*arguments: object) -> None:
        updates.upsert(
            [{"item_id": "n45", "category": "category-0"}, {"item_id": "item-0001", "category": "category-0"}]
        )
        updates.delete(["n1"])
        compare(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(compaction, "_compare", meanwhile)
    target = compact(place)
    new = open_generation(target)
    assert new.store.lookup(["n45", "n1", "n2"])[1].tolist() == [True, False, True]
    assert same(old.store, new.store)
    assert new.store.updates is not None and new.store.updates.overlay.count == 2
    with pytest.raises(ArtefactError, match="was replaced"):
        updates.delete(["n2"])
    ItemUpdates.open(place).delete(["n2"])
    assert new.store.lookup(["n2"])[1].tolist() == [False]


def test_what_was_gone_back_from_does_not_come_back(
    published: dict[Precision, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its compaction was running."""
    place = copied(published, tmp_path)
    other = shutil.copytree(locate(place), place / "generations" / "20200101T000000-00000000")
    compare = compaction._compare

    def meanwhile(*arguments: object) -> None:
        make_current(place, other.name)
        compare(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(compaction, "_compare", meanwhile)
    with pytest.raises(ArtefactError, match=f"went to generation {other.name} meanwhile; nothing is published"):
        compact(place)
    assert locate(place) == other and len(list((place / "generations").iterdir())) == 2


def test_a_wrong_copy_is_not_published(
    published: dict[Precision, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copied(published, tmp_path)
    old = locate(place)
    stored = ItemStore.stored
    calls = 0

    def once_wrong(self: ItemStore, positions: Any) -> object:
        nonlocal calls
        calls += 1
        return stored(self, positions[::-1].copy() if calls == 1 else positions)

    monkeypatch.setattr(ItemStore, "stored", once_wrong)
    with pytest.raises(ArtefactError, match="were not copied; nothing is published"):
        compact(place)
    assert locate(place) == old and len(list((place / "generations").iterdir())) == 1


def test_nothing_left_is_not_published(published: dict[Precision, Path], tmp_path: Path) -> None:
    place = copied(published, tmp_path)
    ItemUpdates.open(place).delete(IDS)
    with pytest.raises(ArtefactError, match="every item is deleted; nothing is published"):
        compact(place)


def test_damage_is_not_copied(published: dict[Precision, Path], tmp_path: Path) -> None:
    place = copied(published, tmp_path)
    path = locate(place) / "store" / "rows.npy"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match=r"rows\.npy: is damaged"):
        compact(place)


KILLED = """
import os, signal, sys
from pathlib import Path
from typing import Any
from prerank.publish import compact, generation

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

when = sys.argv[2]
if when == "before the switch":
    generation.replace_text = die
compact.compact(Path(sys.argv[1]), die if when == "while writing" else None)
"""


@pytest.mark.parametrize("when", ["while writing", "before the switch"])
def test_a_killed_compaction_leaves_the_generation_and_its_updates(
    published: dict[Precision, Path], tmp_path: Path, when: str
) -> None:
    place = copied(published, tmp_path)
    old = open_generation(locate(place))
    environment = {**os.environ, "PYTHONPATH": str(Path(prerank.__file__).parents[1])}
    command = [sys.executable, "-c", KILLED, str(place), when]
    assert subprocess.run(command, env=environment, check=False, timeout=120).returncode == -signal.SIGKILL
    again = open_generation(locate(place))
    assert again.name == old.name and same(again.store, old.store)
    ItemUpdates.open(place).delete(["n2"])
    assert same(open_generation(compact(place)).store, old.store)
