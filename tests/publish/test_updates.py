"""Items change while they are served: what readers see, in this process and in others."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from prerank.data.encoder import Encoder
from prerank.data.log import Dataset
from prerank.errors import ArtefactError, DataError, RequestError
from prerank.models.registry import create, model_config
from prerank.publish.bundle import Bundle
from prerank.publish.encode import encode_catalogue
from prerank.publish.generation import STORE, Generation, locate, log_of, open_generation
from prerank.publish.plan.base import PlainPlan
from prerank.publish.plan.fit import FITPlan
from prerank.publish.precision import PRECISIONS, Precision, Vectors
from prerank.publish.publish import publish_bundle
from prerank.publish.store import ItemStore
from prerank.publish.updates import RECORD, ItemUpdates
from prerank.serving.preranker import PreRanker

NEW = {"item_id": "new", "category": "category-1"}


@pytest.fixture(scope="module")
def titled(world: Dataset) -> Dataset:
    items = world.items.with_columns(name="the " + pl.col("item_id"))
    return replace(world, items=items, schema=world.schema.model_copy(update={"title": "name"}))


@pytest.fixture(scope="module")
def bundle(titled: Dataset) -> Bundle:
    encoder, config = Encoder.fit(titled), model_config({"name": "fit", "embedding_std": 1.0, "tower": [8]}, "test")
    torch.manual_seed(0)
    return Bundle(create(config, encoder.inputs).eval(), encoder, config, {})


@pytest.fixture(scope="module")
def published(titled: Dataset, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A published directory of each precision."""
    places: dict[str, Path] = {}
    for precision in PRECISIONS:
        places[precision] = tmp_path_factory.mktemp(precision)
        publish_bundle(bundle, titled, places[precision], precision)
    return places


def copied(published: dict[str, Path], tmp_path: Path, precision: Precision = "float32") -> Path:
    return Path(shutil.copytree(published[precision], tmp_path / "published"))


def gathered(store: ItemStore, ids: list[Any]) -> torch.Tensor:
    positions, known = store.lookup(ids)
    assert known.all()
    return store.gather(positions)


@torch.inference_mode()
def encoded_alone(
    bundle: Bundle, items: list[dict[str, Any]], precision: Precision
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the store has of items, by the model's own functions."""
    features = bundle.encoder.encode_values("item", items)
    rows, every = bundle.model.item(features), torch.arange(len(items))
    kept = Vectors.store(rows[:, 1:], precision).take(every)
    behaviours = Vectors.store(bundle.model.behaviour(features), precision).take(every)
    return torch.cat([rows[:, :1], kept], dim=1), behaviours


@pytest.mark.parametrize("precision", PRECISIONS)
def test_upserted_items_are_what_the_item_tower_says(
    published: dict[str, Path], bundle: Bundle, tmp_path: Path, precision: Precision
) -> None:
    place = copied(published, tmp_path, precision)
    reader = open_generation(locate(place)).store
    old_ids = [f"item-{number:04}" for number in range(80)]
    before = gathered(reader, old_ids)
    items = [NEW, {"item_id": "item-0007", "category": "never seen"}, {"item_id": "bare"}]
    assert ItemUpdates.open(place).upsert(items) == 3
    rows, behaviours = encoded_alone(bundle, items, precision)
    assert rows.shape[1] == 129 and len(torch.unique(rows[:, 1])) == 3
    for store in (reader, open_generation(locate(place)).store):
        positions, known = store.lookup(["new", "item-0008", "item-0007", "nowhere", "bare"])
        assert known.tolist() == [True, True, True, False, True]
        torch.testing.assert_close(store.gather(positions[[0, 2, 4]]), rows, rtol=1e-6, atol=1e-6)
        assert torch.equal(store.gather(positions[[1]]), before[[8]])
        past = store.remember(positions, known)
        assert torch.equal(past[[0, 2, 4]], behaviours)
        assert torch.equal(past[3], store.remember(positions[:1], ~known[:1])[0])
        mixed, places = store.floats(positions[known])
        assert np.array_equal(mixed[places], store.gather(positions[known])[:, 1:].numpy())
        assert np.array_equal(store.indices(positions[known]), store.gather(positions[known])[:, :1])
        others = [name for name in old_ids if name != "item-0007"]
        assert torch.equal(gathered(store, others), before[[name != "item-0007" for name in old_ids]])


def test_a_table_is_the_same_as_mappings(published: dict[str, Path], tmp_path: Path) -> None:
    first, second = (copied(published, tmp_path / name) for name in ("a", "b"))
    items = [
        {"item_id": f"n{number}", "category": f"category-{number % 4}", "name": f"no. {number}"} for number in range(9)
    ]
    ids = [item["item_id"] for item in items]
    ItemUpdates.open(first).upsert(items)
    ItemUpdates.open(second).upsert(pl.DataFrame(items))
    rankers = [PreRanker.load(place) for place in (first, second)]
    assert torch.equal(*(gathered(ranker.generation.store, ids) for ranker in rankers))
    for ranker in rankers:
        assert ranker.titles([*ids, "item-0001"]) == {
            **{name: f"no. {number}" for number, name in enumerate(ids)},
            "item-0001": "the item-0001",
        }


def test_deleted_items_are_unknown_as_candidates_and_in_histories(published: dict[str, Path], tmp_path: Path) -> None:
    place = copied(published, tmp_path)
    ranker = PreRanker.load(place)
    updates = ItemUpdates(place, ranker.generation)
    candidates = ["item-0001", "item-0002", "item-0003", "new"]
    assert ranker.rank({}, candidates, history=["item-0002"]).unknown_history == 0
    updates.upsert([NEW])
    assert updates.delete(["item-0002", "never there"]) == 2
    answer = ranker.rank({}, candidates, history=["item-0002", "new"])
    assert sorted(answer.ids, key=str) == ["item-0001", "item-0003", "new"]
    assert answer.unknown == ["item-0002"] and answer.unknown_history == 1
    updates.upsert([{"item_id": "item-0002", "category": "category-1"}])
    updates.delete(["new"])
    answer = ranker.rank({}, candidates)
    assert sorted(answer.ids, key=str) == ["item-0001", "item-0002", "item-0003"]
    assert sorted(PreRanker.load(place).rank({}, candidates).ids, key=str) == sorted(answer.ids, key=str)


def test_a_score_is_that_of_a_clean_publish(
    published: dict[str, Path], titled: Dataset, bundle: Bundle, tmp_path: Path
) -> None:
    place = copied(published, tmp_path)
    changed = titled.items.with_columns(category=pl.lit("category-2"))[:10]
    added = titled.items[:5].with_columns(item_id="x" + pl.col("item_id"))
    ItemUpdates.open(place).upsert(pl.concat([changed, added]))
    ItemUpdates.open(place).delete(titled.items["item_id"][20:30].to_list())
    clean = replace(titled, items=pl.concat([changed, titled.items[10:20], titled.items[30:], added]))
    encode_catalogue(bundle, clean.items.lazy(), tmp_path / "s", "g", "m", dtype="float32", progress=None)
    updated, ids = open_generation(locate(place)).store, clean.items["item_id"].to_list()
    rebuilt = gathered(ItemStore.open(tmp_path / "s"), ids)
    torch.testing.assert_close(gathered(updated, ids), rebuilt, rtol=1e-6, atol=1e-6)
    assert not updated.lookup(titled.items["item_id"][20:30].to_list())[1].any()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_plan_scores_upserted_items_as_the_model_does(
    published: dict[str, Path], tmp_path: Path, precision: Precision
) -> None:
    place = copied(published, tmp_path, precision)
    planned, plain = (open_generation(locate(place), planned=planned) for planned in (True, False))
    assert isinstance(planned.plan, FITPlan) and isinstance(plain.plan, PlainPlan)
    assert plain.plan.model is plain.bundle.model
    ItemUpdates.open(place).upsert([NEW, {"item_id": "item-0007", "category": "category-2"}, {"item_id": "bare"}])
    ids = ["item-0003", "new", "item-0007", "item-0009", "bare"]
    for wanted in (ids, ids[1:3], ids[:1]):
        positions, _ = planned.store.lookup(wanted)
        plain.store.lookup(wanted)  # which reads the updates
        given, expected = (way.logits({}, {}, ids, positions)[0] for way in (planned, plain))
        np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)
        assert np.std(expected) > 1e-3 or len(wanted) == 1


def test_large_upserts_are_written_in_records(published: dict[str, Path], tmp_path: Path) -> None:
    place = copied(published, tmp_path)
    table = pl.DataFrame({"item_id": [f"n{number}" for number in range(RECORD + 10)], "category": "category-1"})
    reader = open_generation(locate(place)).store
    assert ItemUpdates.open(place).upsert(table) == RECORD + 10
    assert reader.lookup(table["item_id"].to_list())[1].all()
    assert ItemUpdates.open(place).delete(table["item_id"].to_list()) == RECORD + 10
    assert not reader.lookup(table["item_id"].to_list())[1].any()


def _lags(place: Path, seen: Any, ready: Any) -> None:
    """Note when each item was first seen."""
    store = open_generation(locate(place)).store
    ready.set()
    for number in range(20):
        while not store.lookup([f"n{number}"])[1][0]:
            time.sleep(0.001)
        seen.put(time.time())


def test_another_process_sees_what_was_written_within_a_second(published: dict[str, Path], tmp_path: Path) -> None:
    place = copied(published, tmp_path)
    context = multiprocessing.get_context("spawn")
    seen, ready = context.Queue(), context.Event()
    reader = context.Process(target=_lags, args=(place, seen, ready))
    reader.start()
    try:
        updates = ItemUpdates.open(place)
        assert ready.wait(120)
        for number in range(20):
            updates.upsert([{"item_id": f"n{number}", "category": "category-1"}])
            written = time.time()
            assert seen.get(timeout=30) - written < 1
    finally:
        reader.join(30)


def test_no_reader_sees_half_an_item(published: dict[str, Path], tmp_path: Path) -> None:
    """One item alternates between two categories; every row that is ever read is one of two whole ones."""
    place = copied(published, tmp_path)
    store = open_generation(locate(place)).store
    updates = ItemUpdates.open(place)
    versions = []
    for category in ("0", "1"):
        updates.upsert([{"item_id": "new", "category": f"category-{category}"}])
        versions.append(gathered(store, ["new"])[0])
    assert (versions[0] - versions[1]).abs().max() > 0.01
    wrong, read, done = [], 0, threading.Event()

    def watch() -> None:
        nonlocal read
        while not done.is_set():
            row = gathered(store, ["new"])[0]
            read += 1
            if not any(torch.allclose(row, version, atol=1e-5) for version in versions):
                wrong.append(row)

    thread = threading.Thread(target=watch)
    thread.start()
    for number in range(40):
        updates.upsert([{"item_id": "new", "category": f"category-{number % 2}"}] + [{"item_id": f"n{number}"}] * 30)
    done.set()
    thread.join()
    assert read > 40 and not wrong


def test_what_was_looked_up_can_be_gathered_later(published: dict[str, Path], tmp_path: Path) -> None:
    place = copied(published, tmp_path)
    store, updates = open_generation(locate(place)).store, ItemUpdates.open(place)
    updates.upsert([NEW])
    positions, _ = store.lookup(["new", "item-0001"])
    before = store.gather(positions)
    updates.upsert([{**NEW, "category": "category-2"}, {"item_id": "item-0001", "category": "category-2"}])
    updates.delete(["new"])
    assert not store.lookup(["new"])[1].any()
    assert torch.equal(store.gather(positions), before)


def test_wrong_items_are_refused_and_change_nothing(published: dict[str, Path], tmp_path: Path) -> None:
    place = copied(published, tmp_path)
    updates = ItemUpdates.open(place)
    wrong: list[tuple[Any, type[Exception], str]] = [
        ([{"category": "category-1"}], RequestError, r"items\[0\]: an item id is an integer or a text, got None"),
        ([NEW, {**NEW, "colour": "red"}], RequestError, r"item\.colour: unknown field"),
        ([{**NEW, "category": ["1"]}], RequestError, r"item\.category: expected a text or a number"),
        (pl.DataFrame({"item_id": ["a"]}), DataError, "column 'category' is missing"),
        (pl.DataFrame({"category": ["a"]}), DataError, "column 'item_id' is missing"),
    ]
    for items, error, message in wrong:
        with pytest.raises(error, match=message):
            updates.upsert(items)
    with pytest.raises(RequestError, match=r"items\[1\]: an item id is an integer or a text, got 2\.5"):
        updates.delete(["a", 2.5])  # type: ignore[list-item]
    log = log_of(locate(place))
    assert log is not None and not log.exists()
    assert updates.upsert([]) == updates.delete([]) == 0 and not log.exists()


def test_integer_catalogues_take_integers_in_any_form(bundle: Bundle, titled: Dataset, tmp_path: Path) -> None:
    items = titled.items.with_columns(item_id=pl.int_range(80))
    numbered = replace(titled, items=items, behaviours=items)
    encoder = Encoder.fit(numbered)
    publish_bundle(Bundle(create(bundle.config, encoder.inputs), encoder, bundle.config, {}), numbered, tmp_path)
    updates = ItemUpdates.open(tmp_path)
    updates.upsert([{"item_id": 500, "category": "category-1"}, {"item_id": "501", "category": "category-1"}])
    updates.delete([np.int64(3), "4"])  # type: ignore[list-item]
    store = open_generation(locate(tmp_path)).store
    assert store.lookup([500, "501", 3, 4, 5])[1].tolist() == [True, True, False, False, True]
    with pytest.raises(RequestError, match=r"items\[1\]: 'five' is no id of this catalogue, whose ids are integers"):
        updates.upsert([{"item_id": 7}, {"item_id": "five"}])


def test_a_replaced_generation_takes_no_updates(
    published: dict[str, Path], titled: Dataset, bundle: Bundle, tmp_path: Path
) -> None:
    place = copied(published, tmp_path)
    updates = ItemUpdates.open(place)
    other = replace(bundle, report={"another": 1})
    new = publish_bundle(other, titled, place)
    with pytest.raises(ArtefactError, match=rf"generation .* was replaced by {new.name}; open it again"):
        updates.upsert([NEW])
    ItemUpdates.open(place).upsert([NEW])
    assert not updates.generation.store.lookup(["new"])[1].any()  # it serves the old one, whose log is its own
    assert open_generation(new).store.lookup(["new"])[1].all()


def test_a_single_generation_takes_no_updates(published: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(locate(published["float32"]), tmp_path / "single")
    with pytest.raises(ArtefactError, match="items can be changed in a directory made by prerank publish only"):
        ItemUpdates.open(tmp_path / "single")


def _log_of(generation: Generation, place: Path) -> Path:
    return place / "updates" / f"{generation.name}.log"


def test_damage_is_refused_when_opening_and_passed_over_while_serving(
    published: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = copied(published, tmp_path)
    updates = ItemUpdates.open(place)
    updates.upsert([NEW])
    serving = open_generation(locate(place))
    path = _log_of(serving, place)
    size = path.stat().st_size
    updates.upsert([{**NEW, "item_id": "next"}])
    updates.upsert([{**NEW, "item_id": "last"}])
    data = bytearray(path.read_bytes())
    data[size + 20] ^= 4
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match=f"{path}: is damaged at byte {size};"):
        open_generation(locate(place))
    for _ in range(3):
        assert serving.store.lookup(["new", "next", "last"])[1].tolist() == [True, False, False]
    assert caplog.text.count("updates are not followed any more") == 1
    with pytest.raises(ArtefactError, match="is damaged"):
        ItemUpdates(place, serving).upsert([NEW])


@pytest.mark.parametrize("names", ["as published", "the same"])
def test_the_log_of_another_generation_is_refused(
    published: dict[str, Path],
    titled: Dataset,
    bundle: Bundle,
    tmp_path: Path,
    names: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names may be equal: publishing one model twice within a second, into two directories, makes two salts."""
    first, second = copied(published, tmp_path / "a"), copied(published, tmp_path / "b", "int8")
    if names == "the same":
        monkeypatch.setattr("prerank.publish.publish.new_generation", lambda _: "20260101T000000-01234567")
        first, second = tmp_path / "first", tmp_path / "second"
        publish_bundle(bundle, titled, first)
        publish_bundle(bundle, titled, second)
    ItemUpdates.open(first).upsert([NEW])
    other = open_generation(locate(second))
    (second / "updates").mkdir(exist_ok=True)
    shutil.copy(_log_of(open_generation(locate(first)), first), _log_of(other, second))
    with pytest.raises(ArtefactError, match=r"is the log .*; remove it"):
        open_generation(locate(second))


def test_a_full_disk_changes_nothing(
    published: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copied(published, tmp_path)
    updates = ItemUpdates.open(place)
    updates.upsert([NEW])

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(ArtefactError, match="could not be written: No space left on device"):
            updates.upsert([{**NEW, "item_id": "more"}])
    updates.upsert([{**NEW, "item_id": "later"}])
    store = open_generation(locate(place) / "").store
    assert store.lookup(["new", "more", "later"])[1].tolist() == [True, False, True]
    assert len(ItemStore.open(locate(place) / STORE)) == 80
