"""The store holds what the model says of each item, wherever the item stands in the table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset
from prerank.errors import ArtefactError, DataError
from prerank.models.registry import MODELS, create, model_config
from prerank.publish import encode, item_ids
from prerank.publish.bundle import Bundle
from prerank.publish.encode import encode_catalogue
from prerank.publish.precision import PRECISIONS, Precision, Vectors
from prerank.publish.store import ItemStore


def small(model: str, encoder: Encoder, seed: int = 0) -> Bundle:
    """A small untrained model."""
    sizes = {"tower": [8]} if "tower" in MODELS[model].config.model_fields else {}
    config = model_config({"name": model, "embedding_std": 1.0, **sizes}, "test")
    torch.manual_seed(seed)
    return Bundle(create(config, encoder.inputs).eval(), encoder, config, {"test": {"auc": 0.5}})


def stored(bundle: Bundle, items: pl.DataFrame, directory: Path, dtype: Precision = "float32") -> ItemStore:
    encode_catalogue(bundle, items.lazy(), directory, "g", "m", dtype=dtype, progress=None)
    return ItemStore.open(directory)


@pytest.mark.parametrize("model", MODELS)
def test_gather_is_what_the_model_says(encoded: EncodedDataset, tmp_path: Path, model: str) -> None:
    bundle = small(model, encoded.encoder)
    store = stored(bundle, encoded.dataset.items, tmp_path / "store")
    ids = encoded.dataset.items["item_id"].to_list()
    positions, known = store.lookup(ids)
    features = bundle.encoder.encode("item", encoded.dataset.items)
    with torch.inference_mode():
        assert known.all()
        torch.testing.assert_close(store.gather(positions), bundle.model.item(features), rtol=1e-6, atol=1e-6)
        assert positions.tolist() == list(range(80))
        remembered = store.remember(positions, known)
        assert torch.equal(remembered, bundle.model.behaviour(features))
        nothing = bundle.model.behaviour(bundle.encoder.encode_values("history", [{}]))
    assert torch.equal(store.remember(positions[:1], ~known[:1]), nothing)
    assert store.lookup(["nowhere", ids[3], "zzz", ""])[1].tolist() == [False, True, False, False]


def test_float16_halves_the_store_and_keeps_the_index(encoded: EncodedDataset, tmp_path: Path) -> None:
    bundle = small("fit", encoded.encoder)
    full = stored(bundle, encoded.dataset.items, tmp_path / "full")
    half = stored(bundle, encoded.dataset.items, tmp_path / "half", "float16")
    assert half.rows.nbytes * 2 == full.rows.nbytes and half.rows.values.dtype == torch.float16
    assert half.index is not None and full.index is not None and half.index.dtype == np.uint8
    assert np.array_equal(half.index, full.index) and len(np.unique(full.index)) > 1
    torch.testing.assert_close(half.rows.values.float(), full.rows.values, rtol=2**-10, atol=1e-7)


def test_chunks_do_not_show(encoded: EncodedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = small("fit", encoded.encoder)
    whole = stored(bundle, encoded.dataset.items, tmp_path / "whole")
    monkeypatch.setattr(encode, "CHUNK", 30)
    calls: list[tuple[int, int]] = []
    encode_catalogue(
        bundle,
        encoded.dataset.items.lazy(),
        tmp_path / "chunks",
        "g",
        "m",
        dtype="float32",
        progress=lambda done, total: calls.append((done, total)),
    )
    chunks = ItemStore.open(tmp_path / "chunks")
    assert calls == [(30, 80), (60, 80), (80, 80)]
    assert whole.index is not None and chunks.index is not None
    assert np.array_equal(whole.index, chunks.index)
    torch.testing.assert_close(whole.rows.values, chunks.rows.values, rtol=1e-6, atol=1e-6)


def test_more_than_256_queries_take_two_bytes(
    encoded: EncodedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = small("fit", encoded.encoder)
    item = bundle.model.item
    monkeypatch.setattr(bundle.model, "item", lambda features: item(features) + torch.eye(1, 129) * 300)
    store = stored(bundle, encoded.dataset.items, tmp_path / "store")
    assert store.index is not None and store.index.dtype == np.uint16 and store.index.min() >= 300
    assert store.gather(np.array([4]))[0, 0] == store.index[4, 0]


def test_facts_for_people_and_tools(encoded: EncodedDataset, tmp_path: Path) -> None:
    stored(small("fit", encoded.encoder), encoded.dataset.items, tmp_path / "store", "float16")
    facts = json.loads((tmp_path / "store" / "store.json").read_text())
    assert len(facts.pop("salt")) == 16
    assert facts == {
        "layout": 2,
        "generation": "g",
        "kind": "text",
        "rows": 80,
        "width": 128,
        "dtype": "float16",
        "index_columns": 1,
        "behaviour_width": 32,
    }


def test_titles_follow_their_items(encoded: EncodedDataset, tmp_path: Path) -> None:
    bundle = small("two_tower", encoded.encoder)
    fitted = bundle.encoder
    titled = Encoder(fitted.schema.model_copy(update={"title": "name"}), fitted.history, fitted.coders)
    bundle = replace(bundle, encoder=titled)
    items = encoded.dataset.items.with_columns(name="the " + pl.col("item_id"))
    store = stored(bundle, items, tmp_path / "store")
    ids = items["item_id"].to_list()
    assert [store.title(position) for position in store.lookup(ids)[0].tolist()] == [f"the {i}" for i in ids]
    with pytest.raises(DataError, match="column 'name', the schema's title, is missing"):
        stored(bundle, encoded.dataset.items, tmp_path / "without")


def test_an_item_twice_is_named(encoded: EncodedDataset, tmp_path: Path) -> None:
    items = pl.concat([encoded.dataset.items, encoded.dataset.items[4:5]])
    with pytest.raises(DataError, match=f"item_id '{items['item_id'][4]}' occurs more than once"):
        stored(small("two_tower", encoded.encoder), items, tmp_path / "store")


def test_colliding_hashes_are_not_two_names_of_one_item(
    encoded: EncodedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_ids, "hashes", lambda texts, _: np.arange(len(texts)) // 2)
    with pytest.raises(ArtefactError, match="have the same 64-bit hash"):
        stored(small("two_tower", encoded.encoder), encoded.dataset.items, tmp_path / "store")


@pytest.mark.parametrize(
    ("value", "dtype", "problem"),
    [
        (65_505.0, "float16", "publish as float32"),
        (3.4e38, "bfloat16", "publish as float32"),
        (float("inf"), "float32", "not fit"),
        (float("nan"), "float16", "not fit"),
        (float("nan"), "int8", "not fit"),
    ],
)
def test_what_the_precision_cannot_hold_is_refused(
    encoded: EncodedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
    dtype: Precision,
    problem: str,
) -> None:
    bundle = small("two_tower", encoded.encoder)
    bad = bundle.encoder.encode_values("item", [{"item_id": "item-0011"}]).columns["item_id"]
    monkeypatch.setattr(
        bundle.model,
        "item",
        lambda features: torch.where(features.columns["item_id"] == bad, value, 1.0)[:, None].expand(-1, 8),
    )
    with pytest.raises(ArtefactError, match=f"item 'item-0011': its representation is not within .*{dtype}.*{problem}"):
        stored(bundle, encoded.dataset.items, tmp_path / "store", dtype)


def test_an_index_that_is_no_whole_number_is_refused(
    encoded: EncodedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = small("fit", encoded.encoder)
    item = bundle.model.item
    monkeypatch.setattr(bundle.model, "item", lambda features: item(features) + 0.5)
    with pytest.raises(ArtefactError, match="whole numbers"):
        stored(bundle, encoded.dataset.items, tmp_path / "store")


def test_a_column_that_the_catalogue_lacks(encoded: EncodedDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'category' is missing"):
        stored(small("fit", encoded.encoder), encoded.dataset.items.drop("category"), tmp_path / "store")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_reads_what_it_rounded(encoded: EncodedDataset, tmp_path: Path, precision: Precision) -> None:
    bundle = small("fit", encoded.encoder)
    store = stored(bundle, encoded.dataset.items, tmp_path / "store", precision)
    with torch.inference_mode():
        features = bundle.encoder.encode("item", encoded.dataset.items)
        items, behaviours = bundle.model.item(features), bundle.model.behaviour(features)
        nothing = bundle.model.behaviour(bundle.encoder.encode_values("history", [{}]))
    every = torch.arange(80)
    gathered = store.gather(every.numpy())
    assert torch.equal(gathered[:, 0], items[:, 0])  # the query index, exactly
    rows, places = store.floats(every.numpy()[::-1].copy())
    assert torch.equal(torch.from_numpy(rows[places]).flip(0), gathered[:, 1:])
    assert np.array_equal(store.indices(every.numpy()), items[:, :1])
    assert torch.equal(gathered[:, 1:], Vectors.store(items[:, 1:], precision).take(every))
    past = store.remember(every.numpy(), np.arange(80) % 2 == 0)
    assert torch.equal(past[::2], Vectors.store(behaviours, precision).take(every)[::2])
    assert torch.equal(past[1::2], Vectors.store(nothing, precision).take(torch.zeros(40, dtype=torch.int64)))


def test_an_empty_catalogue_is_refused(encoded: EncodedDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the catalogue is empty"):
        stored(small("fit", encoded.encoder), encoded.dataset.items[:0], tmp_path / "store")


def test_a_preloaded_store_is_in_memory(encoded: EncodedDataset, tmp_path: Path) -> None:
    """Every page of every mapped file is resident, which the kernel says of the process's maps."""
    stored(small("fit", encoded.encoder), encoded.dataset.items, tmp_path / "store")
    store = ItemStore.open(tmp_path / "store", preload=True)
    resident = _resident(tmp_path / "store")
    assert len(store) == 80 and set(resident) >= {"rows.npy", "behaviours.npy", "ids.npy", "slots.npy", "index.npy"}
    assert all(pages >= (tmp_path / "store" / name).stat().st_size // 1024 for name, pages in resident.items())


def _resident(directory: Path) -> dict[str, int]:
    """KiB in memory of each .npy file that is mapped from a directory."""
    name, found = "", {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if str(directory) in line:
            name = line.rpartition("/")[2]
        elif line.startswith("Rss:") and name.endswith(".npy"):
            found[name] = int(line.split()[1])
            name = ""
    return found


def test_a_store_of_another_layout_is_refused(encoded: EncodedDataset, tmp_path: Path) -> None:
    stored(small("fit", encoded.encoder), encoded.dataset.items, tmp_path / "store")
    (tmp_path / "store" / "store.json").write_text("{}")
    with pytest.raises(ArtefactError, match="an item store of layout 1, this prerank reads layout 2"):
        ItemStore.open(tmp_path / "store")
