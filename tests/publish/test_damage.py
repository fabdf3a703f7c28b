"""No damaged published directory is served: every file, flipped or cut anywhere."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prerank.data.encoder import Encoder
from prerank.data.log import Dataset
from prerank.errors import ArtefactError
from prerank.models.registry import create, model_config
from prerank.publish.bundle import Bundle
from prerank.publish.generation import locate, open_generation
from prerank.publish.publish import publish_bundle

FILES = [
    "buckets.json",
    "config.json",
    "manifest.json",
    "report.json",
    "schema.json",
    "store/behaviours.npy",
    "store/behaviours.scales.npy",
    "store/ids.npy",
    "store/index.npy",
    "store/rows.npy",
    "store/rows.scales.npy",
    "store/slots.npy",
    "store/store.json",
    "store/titles.arrow",
    "vocabularies.arrow",
    "weights.safetensors",
]


def fit(dataset: Dataset, seed: int) -> Bundle:
    encoder, config = Encoder.fit(dataset), model_config({"name": "fit"}, "test")
    torch.manual_seed(seed)
    return Bundle(create(config, encoder.inputs), encoder, config, {})


@pytest.fixture(scope="module")
def titled(world: Dataset) -> Dataset:
    return replace(world, schema=world.schema.model_copy(update={"title": "category"}))


@pytest.fixture(scope="module")
def published(titled: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published FIT with every file that there can be."""
    to = tmp_path_factory.mktemp("published")
    publish_bundle(fit(titled, seed=0), titled, to, "int8")
    return to


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the generation that is intact again at the end."""
    copied = tmp_path / "copy"
    shutil.copytree(locate(published), copied)
    yield copied
    open_generation(copied)


def test_these_are_all_files(copy: Path) -> None:
    assert sorted(p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_refused_by_name(copy: Path, name: str) -> None:
    intact = (copy / name).read_bytes()
    for offset in (0, *np.random.default_rng(len(intact)).integers(len(intact), size=8).tolist(), len(intact) - 1):
        damaged = bytearray(intact)
        damaged[offset] ^= 1 << offset % 8
        (copy / name).write_bytes(damaged)
        with pytest.raises(ArtefactError, match=f"{copy / name}: is "):
            open_generation(copy)
    (copy / name).write_bytes(intact)


@pytest.mark.parametrize("name", FILES)
def test_a_cut_or_missing_file_is_refused_by_name(copy: Path, name: str) -> None:
    intact = (copy / name).read_bytes()
    for length in {0, 1, len(intact) // 2, len(intact) - 1}:
        (copy / name).write_bytes(intact[:length])
        with pytest.raises(ArtefactError, match=f"{copy / name}: (is damaged|has {length} bytes)"):
            open_generation(copy)
    (copy / name).unlink()
    with pytest.raises(ArtefactError, match=f"{copy / name}: is missing"):
        open_generation(copy)
    (copy / name).write_bytes(intact)


@pytest.mark.parametrize("name", ["weights.pt", "store/extra.npy", "store/deeper/file", ".hidden"])
def test_a_planted_file_is_refused_by_name(copy: Path, name: str) -> None:
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text("planted")
    with pytest.raises(ArtefactError, match=f"{copy / name}: is not in the manifest"):
        open_generation(copy)
    (copy / name).unlink()


def test_the_store_of_another_model_is_refused(
    copy: Path, titled: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is whole in itself and has the same size, but its query indices belong to another meta matrix."""
    salt = json.loads((copy / "store" / "store.json").read_text())["salt"]
    monkeypatch.setattr(secrets, "randbits", lambda _: int(salt, 16))  # another salt may need more slots
    other = publish_bundle(fit(titled, seed=1), titled, tmp_path / "other", "int8")
    shutil.move(copy / "store", tmp_path / "own")
    shutil.copytree(other / "store", copy / "store")
    with pytest.raises(ArtefactError, match=r"store/\w+\.\w+: is damaged"):
        open_generation(copy)
    shutil.rmtree(copy / "store")
    shutil.move(tmp_path / "own", copy / "store")
