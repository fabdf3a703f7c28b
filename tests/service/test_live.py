"""Following generations: the newest good one is served, a bad one never."""

from __future__ import annotations

import gc
import logging
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.service.conftest import publish

from prerank.data.log import Dataset
from prerank.errors import ArtefactError
from prerank.publish.generation import Generation, locate, open_generation
from prerank.publish.store import ItemStore
from prerank.service import live as module
from prerank.service.live import Live
from prerank.service.metrics import Metrics
from prerank.service.refusal import RefusedError
from prerank.service.settings import ServiceConfig
from prerank.service.warm_up import warm_up


def names(place: Path) -> list[str]:
    """Generations, the oldest first; a second may have had several."""
    return sorted(path.name for path in (place / "generations").iterdir())


def point(place: Path, name: str) -> None:
    """What an operator does to go back."""
    (place / "NEXT").write_text(f"{name}\n")
    (place / "NEXT").rename(place / "CURRENT")


@pytest.fixture
def live(published: Path) -> Live:
    watching = Live(published, ServiceConfig(), Metrics())
    assert watching.generation is None
    with pytest.raises(RefusedError, match="starting"):
        watching.ranker()
    assert watching.look()
    return watching


def count(live: Live, result: str) -> float | None:
    return live.metrics.registry.get_sample_value("prerank_generation_loads_total", {"result": result})


def test_forward_and_back(live: Live, published: Path, world: Dataset) -> None:
    first, old = locate(published), live.ranker()
    assert live.generation == first.name and not live.look()
    new = publish(world, published, 3)
    assert live.look() and live.generation == new.name and not live.look()
    assert old.rank({}, ["item-0001"]).generation == first.name  # who has it keeps it
    point(published, first.name)
    assert live.look() and live.generation == first.name
    point(published, first.name)
    assert not live.look() and (count(live, "loaded"), count(live, "refused")) == (3, 0)


def damaged(place: Path, name: str) -> Any:
    """Ways in which what CURRENT names is not good."""
    generation = place / "generations" / name

    def flip(file: str) -> None:
        content = bytearray((generation / file).read_bytes())
        content[len(content) // 2] ^= 1
        (generation / file).write_bytes(content)

    return {
        "a flipped bit in the weights": lambda: flip("weights.safetensors"),
        "a flipped bit in the store": lambda: flip("store/rows.npy"),
        "a flipped bit in the manifest": lambda: flip("manifest.json"),
        "a missing file": (generation / "config.json").unlink,
        "a file too many": lambda: (generation / "extra.txt").write_text(""),
        "no such generation": lambda: point(place, "20200101T000000-00000000"),
        "a path": lambda: point(place, "../../elsewhere"),
        "nothing": lambda: (place / "CURRENT").write_text(""),
        "no name at all": (place / "CURRENT").unlink,
    }


@pytest.mark.parametrize("damage", damaged(Path(), ""))
def test_a_bad_generation_is_refused_and_the_old_one_goes_on(
    live: Live, published: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    good = live.generation
    assert good is not None
    other = next(name for name in names(published) if name != good)
    point(published, other)
    damaged(published, other)[damage]()
    with caplog.at_level(logging.ERROR):
        assert not live.look() and not live.look()
    assert live.generation == good and live.ranker().rank({}, ["item-0001"]).generation == good
    assert count(live, "refused") == 1 and len(caplog.records) == 1
    assert f"{good} goes on" in caplog.text and "\n" not in caplog.records[0].getMessage()
    point(published, good)
    assert not live.look() and count(live, "refused") == 1


def test_scores_that_are_not_finite_are_not_served(
    live: Live, published: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Hashes cannot tell that; the warm-up does."""
    good = live.generation
    other = next(name for name in names(published) if name != good)
    gather = ItemStore.gather

    def poisoned(store: ItemStore, positions: Any) -> Any:
        rows = gather(store, positions)
        rows[:, -1] = np.nan
        return rows

    monkeypatch.setattr(ItemStore, "gather", poisoned)
    with pytest.raises(ArtefactError, match="not finite"):
        warm_up(open_generation(published / "generations" / other))
    point(published, other)
    assert not live.look() and live.generation == good and "not finite" in caplog.text


def test_any_fault_while_loading_leaves_the_old_one(
    live: Live, published: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = live.generation

    def broken(place: Path, preload: bool) -> Generation:
        raise KeyError(place.name, preload)

    monkeypatch.setattr(module, "open_generation", broken)
    point(published, next(name for name in names(published) if name != good))
    assert not live.look() and live.generation == good and count(live, "refused") == 1
    assert "KeyError" in caplog.text


def test_what_may_pass_is_tried_again(live: Live, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files, for example."""
    monkeypatch.setattr(module, "RETRY", 0.0)
    other = next(name for name in names(published) if name != live.generation)

    def broken(place: Path, preload: bool) -> Generation:
        monkeypatch.setattr(module, "open_generation", open_generation)
        raise OSError(24, os.strerror(24), str(place), preload)

    monkeypatch.setattr(module, "open_generation", broken)
    point(published, other)
    assert not live.look()
    assert any(live.look() for _ in range(1000)) and live.generation == other


def test_a_single_generation_can_be_served(published: Path) -> None:
    live = Live(locate(published), ServiceConfig(), Metrics())
    assert live.look() and live.generation == locate(published).name and not live.look()


def test_a_change_is_seen_though_its_times_and_its_inode_are_the_old_ones(live: Live, published: Path) -> None:
    current = published / "CURRENT"
    before = current.stat()
    other = next(name for name in names(published) if name != live.generation)
    current.write_text(f"{other}\n")  # in place, and as long as the other name
    os.utime(current, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = current.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)
    assert live.look() and live.generation == other


def test_what_was_refused_is_told_until_it_is_served(live: Live, published: Path) -> None:
    good = live.generation
    other = next(name for name in names(published) if name != good)
    extra = published / "generations" / other / "extra.txt"
    extra.write_text("")
    point(published, other)
    assert not live.look() and list(live.refused) == [other] and "extra.txt: is not in" in live.refused[other]
    assert live.state().refused == live.refused
    extra.unlink()
    assert not live.look()  # nothing was written
    live.look_now()
    assert live.look() and live.generation == other and not live.refused


def test_what_is_replaced_goes_at_once(live: Live, published: Path) -> None:
    """Without the search for garbage, which does not look at what the service has begun with."""
    old = weakref.ref(live.ranker().generation)
    rows = weakref.ref(live.ranker().generation.store.rows.values)
    gc.disable()
    try:
        point(published, next(name for name in names(published) if name != live.generation))
        assert live.look()
        assert old() is None and rows() is None
    finally:
        gc.enable()
