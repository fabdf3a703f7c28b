"""Publishing switches in one step or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tests.small import small_config

import prerank
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset
from prerank.data.log import Dataset
from prerank.errors import ArtefactError, DataError
from prerank.models.registry import MODELS, create
from prerank.publish import publish as publishing
from prerank.publish.bundle import Bundle, load_bundle, save_bundle
from prerank.publish.generation import locate, open_generation
from prerank.publish.item_ids import Ints
from prerank.publish.precision import PRECISIONS
from prerank.publish.publish import publish_bundle
from prerank.publish.store import ItemStore


def small(model: str, encoder: Encoder, seed: int = 0) -> Bundle:
    """A small untrained model."""
    config = small_config(model, embedding_std=1.0, tower=[8])
    torch.manual_seed(seed)
    return Bundle(create(config, encoder.inputs).eval(), encoder, config, {"test": {"auc": 0.5}})


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tiny layers gain nothing from several threads and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_published_and_located(encoded: EncodedDataset, tmp_path: Path, model: str, dtype: Any) -> None:
    bundle = small(model, encoded.encoder)
    target = publish_bundle(bundle, encoded.dataset, tmp_path, dtype)
    assert locate(tmp_path) == locate(target) == target
    assert (tmp_path / "CURRENT").read_text() == f"{target.name}\n"
    generation = open_generation(target)
    assert generation.name == target.name and generation.store.precision == dtype
    assert load_bundle(target).config == bundle.config


def test_earlier_generations_stay(encoded: EncodedDataset, tmp_path: Path) -> None:
    first = publish_bundle(small("two_tower", encoded.encoder), encoded.dataset, tmp_path)
    second = publish_bundle(small("fit", encoded.encoder), encoded.dataset, tmp_path)
    assert names(tmp_path / "generations") == {first.name, second.name}
    assert locate(tmp_path) == second
    open_generation(first)


def test_a_model_without_store_is_not_served(encoded: EncodedDataset, tmp_path: Path) -> None:
    save_bundle(small("fit", encoded.encoder), tmp_path / "bundle")
    with pytest.raises(ArtefactError, match="bundle: holds a model without an item store"):
        open_generation(locate(tmp_path / "bundle"))


def test_a_place_where_nothing_is_published(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArtefactError, match="nothing is published here"):
            locate(place)


def test_every_damage_of_current_is_refused(encoded: EncodedDataset, tmp_path: Path) -> None:
    publish_bundle(small("two_tower", encoded.encoder), encoded.dataset, tmp_path)
    current = tmp_path / "CURRENT"
    intact = current.read_bytes()
    flipped = [bytes(b ^ (1 << bit) * (i == n) for i, b in enumerate(intact)) for n in range(25) for bit in range(8)]
    for damaged in (*flipped, *(intact[:length] for length in range(25)), intact * 2, b"../generations\n"):
        current.write_bytes(damaged)
        with pytest.raises(ArtefactError, match="CURRENT"):
            locate(tmp_path)


def test_a_failure_at_any_step_leaves_the_old_generation(
    encoded: EncodedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = publish_bundle(small("two_tower", encoded.encoder), encoded.dataset, tmp_path)
    before = names(tmp_path)
    monkeypatch.setattr(publishing, "check_parity", lambda *_: None)  # the same each time, and slow
    calls = fail_at = 0
    real: dict[str, Callable[..., None]] = {"fsync": os.fsync, "rename": os.rename}

    def counted(name: str) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise OSError(5, "Input/output error")
            real[name](*arguments)

        return call

    for name in real:
        monkeypatch.setattr(os, name, counted(name))
    while locate(tmp_path) == old:
        assert names(tmp_path / "generations") == {old.name}
        assert names(tmp_path) <= before | {".CURRENT.part"}
        calls, fail_at = 0, fail_at + 1
        with pytest.raises(ArtefactError, match="could not be written: Input/output error"):
            publish_bundle(small("fit", encoded.encoder), encoded.dataset, tmp_path)
    # Only the very last step, syncing the directory after the switch, fails with the new generation in place.
    open_generation(locate(tmp_path))
    steps, fail_at, calls = fail_at, 0, 0
    publish_bundle(small("fit", encoded.encoder, seed=1), encoded.dataset, tmp_path)
    assert steps == calls > 15


KILLED = """
import os, signal, sys
from pathlib import Path
from prerank.data.log import Dataset
from prerank.publish import generation, publish as publishing
from prerank.publish.bundle import load_bundle

place, built, when = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

publishing.check_parity = lambda *_: None
if when == "before the switch":
    generation.replace_text = die
progress = die if when == "while encoding" else None
publishing.publish_bundle(load_bundle(place / "bundle"), Dataset.load(built), place / "to", progress=progress)
"""


@pytest.mark.parametrize("when", ["while encoding", "before the switch"])
def test_a_killed_publish_leaves_the_old_generation(
    encoded: EncodedDataset, built: Path, tmp_path: Path, when: str
) -> None:
    to = tmp_path / "to"
    old = publish_bundle(small("two_tower", encoded.encoder), encoded.dataset, to)
    save_bundle(small("fit", encoded.encoder), tmp_path / "bundle")
    environment = {**os.environ, "PYTHONPATH": str(Path(prerank.__file__).parents[1])}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(built), when], env=environment, check=False, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    assert locate(to) == old
    open_generation(old)
    assert len(names(to / "generations")) == 2  # what the killed one left
    new = publish_bundle(small("fit", encoded.encoder, seed=1), encoded.dataset, to)
    assert locate(to) == new and ".part" not in names(to / "generations")


def test_a_wrong_store_is_not_published(
    encoded: EncodedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = publish_bundle(small("two_tower", encoded.encoder), encoded.dataset, tmp_path)
    before = names(tmp_path)
    gather = ItemStore.gather
    monkeypatch.setattr(ItemStore, "gather", lambda self, positions: gather(self, (positions + 1) % len(self)))
    with pytest.raises(ArtefactError, match=r"parity: \d+ of 1000 served logits differ .* nothing is published"):
        publish_bundle(small("fit", encoded.encoder), encoded.dataset, tmp_path)
    assert locate(tmp_path) == old and names(tmp_path / "generations") == {old.name} and names(tmp_path) == before


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_wrong_query_indices_of_one_item_in_forty_are_not_published(
    encoded: EncodedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    """The plan and the plain path read the same wrong index: only evaluation knows better."""
    indices = ItemStore.indices

    def wrong(self: ItemStore, positions: Ints) -> Any:
        return (indices(self, positions) + (positions % 40 == 7)[:, np.newaxis]) % 64

    monkeypatch.setattr(ItemStore, "indices", wrong)
    bundle = small("fit", encoded.encoder)
    with torch.no_grad():  # as trained logits do, those of an untrained model shall differ from each other
        for name, parameter in bundle.model.named_parameters():
            if name.startswith("scorer"):
                parameter.mul_(3)
    with pytest.raises(ArtefactError, match=r"parity: [1-9]\d of 1000"):
        publish_bundle(bundle, encoded.dataset, tmp_path, dtype)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_wrong_histories_are_not_published(
    encoded: EncodedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    remember = ItemStore.remember
    monkeypatch.setattr(ItemStore, "remember", lambda self, positions, known: remember(self, positions, ~known))
    with pytest.raises(ArtefactError, match="parity"):
        publish_bundle(small("fit", encoded.encoder), encoded.dataset, tmp_path, dtype)
    assert names(tmp_path / "generations") == set() and "CURRENT" not in names(tmp_path)


def test_a_model_whose_evaluation_is_not_its_served_path_is_not_published(
    encoded: EncodedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = small("fit", encoded.encoder)
    pair = bundle.model.pair
    monkeypatch.setattr(bundle.model, "pair", lambda *arguments: pair(*arguments) + 1e-4)
    with pytest.raises(ArtefactError, match="parity: 1000 of 1000"):
        publish_bundle(bundle, encoded.dataset, tmp_path)
    publish_bundle(bundle, encoded.dataset, tmp_path, "float16")  # within what half precision loses


def test_a_model_left_in_training_is_published_in_evaluation(encoded: EncodedDataset, tmp_path: Path) -> None:
    bundle = small("two_tower", encoded.encoder)
    bundle.model.train()
    statistics = bundle.model.state_dict()["item_tower.layers.1.running_mean"].clone()
    target = publish_bundle(bundle, encoded.dataset, tmp_path)
    assert torch.equal(statistics, load_bundle(target).model.state_dict()["item_tower.layers.1.running_mean"])


def test_a_broken_catalogue_publishes_nothing(encoded: EncodedDataset, tmp_path: Path) -> None:
    items = encoded.dataset.items
    twice = replace(encoded.dataset, items=items.vstack(items[:1]))
    with pytest.raises(DataError, match="occurs more than once"):
        publish_bundle(small("fit", encoded.encoder), twice, tmp_path)
    assert names(tmp_path / "generations") == set() and "CURRENT" not in names(tmp_path)


def test_a_place_that_cannot_be_written(encoded: EncodedDataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="file: cannot be written"):
        publish_bundle(small("fit", encoded.encoder), encoded.dataset, tmp_path / "file")


@pytest.fixture
def later(encoded: EncodedDataset) -> pl.DataFrame:
    """The catalogue of another day: a tenth of the items gone, one of another kind, and a new one."""
    schema, items = encoded.dataset.schema, encoded.dataset.items
    field = next(field.name for field in schema.item if field.name != schema.item_id)
    kept = items.head(len(items) * 9 // 10)
    changed = kept.with_columns(pl.col(field).reverse())
    new = kept.head(1).with_columns(pl.lit(10**6).cast(items.schema[schema.item_id]).alias(schema.item_id))
    return pl.concat([changed, new])


@pytest.mark.parametrize("model", ["two_tower", "fit"])
def test_another_catalogue_is_published(
    encoded: EncodedDataset, later: pl.DataFrame, tmp_path: Path, model: str
) -> None:
    """Items are those of the table, with the values that it gives them."""
    bundle = small(model, encoded.encoder)
    store = open_generation(publish_bundle(bundle, encoded.dataset, tmp_path, catalogue=later)).store
    ids = later[encoded.dataset.schema.item_id].to_list()
    positions, known = store.lookup(ids)
    assert known.all() and len(store) == len(ids)
    with torch.inference_mode():
        expected = bundle.model.item(encoded.encoder.encode("item", later))
    torch.testing.assert_close(store.gather(positions), expected)
    _, gone = store.lookup(encoded.dataset.items[encoded.dataset.schema.item_id].tail(1).to_list())
    assert not gone.any()


def test_another_catalogue_meets_the_parity_gate(
    encoded: EncodedDataset, later: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Served scores are compared with those of the new values, so that the old ones are refused."""
    monkeypatch.setattr(Dataset, "with_items", lambda self, _: self)
    with pytest.raises(ArtefactError, match="parity"):
        publish_bundle(small("two_tower", encoded.encoder), encoded.dataset, tmp_path, catalogue=later)


def test_a_catalogue_of_other_items_or_columns_is_refused(
    encoded: EncodedDataset, later: pl.DataFrame, tmp_path: Path
) -> None:
    bundle, item_id = small("fit", encoded.encoder), encoded.dataset.schema.item_id
    with pytest.raises(ArtefactError, match="no test request of the data set has all its past items"):
        publish_bundle(bundle, encoded.dataset, tmp_path, catalogue=later.tail(1))
    with pytest.raises(DataError, match=f"column '{item_id}' is missing"):
        publish_bundle(bundle, encoded.dataset, tmp_path, catalogue=later.drop(item_id))
    assert not (tmp_path / "CURRENT").exists()
