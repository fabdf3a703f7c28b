"""A loaded bundle is the saved one, or an error."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset, Loader
from prerank.errors import ArtefactError
from prerank.models.registry import MODELS, create, model_config
from prerank.publish.bundle import FILES, WEIGHTS, Bundle, load_bundle, save_bundle
from prerank.publish.files import seal


def small(model: str, encoder: Encoder, seed: int = 0) -> Bundle:
    """A small untrained model."""
    sizes = {"tower": [8]} if "tower" in MODELS[model].config.model_fields else {}
    config = model_config({"name": model, "embedding_std": 1.0, **sizes}, "test")
    torch.manual_seed(seed)
    return Bundle(create(config, encoder.inputs).eval(), encoder, config, {"test": {"auc": 0.5}})


@pytest.mark.parametrize("model", MODELS)
def test_loaded_is_saved(encoded: EncodedDataset, tmp_path: Path, model: str) -> None:
    saved = small(model, encoded.encoder)
    save_bundle(saved, tmp_path / "bundle")
    loaded = load_bundle(tmp_path / "bundle")
    assert loaded.config == saved.config and loaded.report == saved.report and loaded.name == model
    assert loaded.encoder.schema == saved.encoder.schema and loaded.encoder.inputs == saved.encoder.inputs
    assert not loaded.model.training
    logits = []
    for bundle in (saved, loaded):
        (batch,) = Loader(EncodedDataset(encoded.dataset, bundle.encoder), "test", batch_rows=10**6).batches()
        with torch.inference_mode():
            logits.append(bundle.model(batch))
    assert torch.equal(*logits)


def test_loading_leaves_the_random_numbers_alone(encoded: EncodedDataset, tmp_path: Path) -> None:
    save_bundle(small("fit", encoded.encoder), tmp_path / "bundle")
    before = torch.get_rng_state()
    load_bundle(tmp_path / "bundle")
    assert torch.equal(before, torch.get_rng_state())


def test_the_files_are_text_arrow_and_safetensors(encoded: EncodedDataset, tmp_path: Path) -> None:
    save_bundle(small("fit", encoded.encoder), tmp_path / "bundle")
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == sorted([*FILES, "manifest.json"])


def test_a_bundle_is_never_overwritten(encoded: EncodedDataset, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(ArtefactError, match="bundle: exists already"):
        save_bundle(small("fit", encoded.encoder), tmp_path / "bundle")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(encoded: EncodedDataset, tmp_path: Path, value: float) -> None:
    bundle = small("two_tower", encoded.encoder)
    bundle.model.get_parameter("scorer.scale").data.fill_(value)
    with pytest.raises(ArtefactError, match=r"weight scorer\.scale is not finite"):
        save_bundle(bundle, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_json_cannot_hold_is_not_saved(encoded: EncodedDataset, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"report\.json: holds a number that is not finite"):
        save_bundle(replace(small("fit", encoded.encoder), report={"auc": float("nan")}), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_shape_are_refused(encoded: EncodedDataset, tmp_path: Path) -> None:
    save_bundle(small("two_tower", encoded.encoder), tmp_path / "bundle")
    weights = load_file(tmp_path / "bundle" / WEIGHTS)
    name = next(name for name in weights if name.endswith("layers.0.weight"))
    save_file({**weights, name: weights[name][:3].contiguous()}, tmp_path / "bundle" / WEIGHTS)
    (tmp_path / "bundle" / "manifest.json").unlink()
    seal(tmp_path / "bundle", "forged", "two_tower")
    with pytest.raises(ArtefactError, match=rf"{WEIGHTS}: does not fit the model: .*size mismatch for {name}"):
        load_bundle(tmp_path / "bundle")


def test_a_sealed_directory_that_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    seal(tmp_path, "x", "y")
    with pytest.raises(ArtefactError, match=r"schema\.json: is missing"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_failed_save_leaves_nothing(
    encoded: EncodedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ArtefactError, match="could not be written: Input/output error"):
        save_bundle(small("fit", encoded.encoder), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
