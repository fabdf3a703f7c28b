"""A trained model as files: weights, encoder, configuration and report, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from prerank.config import parse
from prerank.data.encoder import Encoder
from prerank.errors import ArtefactError
from prerank.models.base import ModelConfig, PreRankingModel
from prerank.models.registry import create, model_config
from prerank.publish.checksums import Check
from prerank.publish.files import aside, content_hash, install, new_generation, refuse_existing, seal, verify
from prerank.schema import Schema

WEIGHTS = "weights.safetensors"
FILES = ("schema.json", "config.json", "vocabularies.arrow", "buckets.json", WEIGHTS, "report.json")


@dataclass(frozen=True)
class Bundle:
    """Everything that scoring a raw row takes.

    Attributes:
        model: the model.
        encoder: what turns raw values into its features.
        config: the configuration that the model was made from.
        report: JSON values of any kind that say how the model came about.
    """

    model: PreRankingModel
    encoder: Encoder
    config: ModelConfig
    report: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The model's name in the registry."""
        return str(self.config.model_dump()["name"])

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device


def save_bundle(bundle: Bundle, directory: Path) -> None:
    """Write a bundle to a new directory, which appears whole or not at all.

    Raises:
        ArtefactError: the directory exists, cannot be written, or a weight is not finite.
    """
    refuse_existing(directory)
    with aside(directory.with_name(f".{directory.name}.part")) as work:
        write_bundle(bundle, work)
        seal(work, new_generation(content_hash(work)), bundle.name)
        install(work, directory)


def write_bundle(bundle: Bundle, directory: Path) -> None:
    """Write a bundle's files into an existing directory, without a manifest.

    Raises:
        ArtefactError: a weight or a number of the report is not finite, or the weights cannot be written.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in bundle.model.state_dict().items()}
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ArtefactError(f"{directory / WEIGHTS}: weight {name} is not finite; a diverged model is not saved")
    vocabularies, numbers = bundle.encoder.state()
    config = {"model": bundle.config.model_dump(mode="json"), "history": bundle.encoder.history}
    _write_json(directory / "schema.json", bundle.encoder.schema.model_dump(mode="json"))
    _write_json(directory / "config.json", config)
    vocabularies.write_ipc(directory / "vocabularies.arrow")
    _write_json(directory / "buckets.json", numbers)
    try:
        save_file(weights, directory / WEIGHTS)
    except SafetensorError as error:  # a full disk, for example, of which the library makes an error of its own
        raise ArtefactError(f"{directory / WEIGHTS}: could not be written: {error}") from None
    _write_json(directory / "report.json", bundle.report)


def load_bundle(directory: Path, check: Check = "auto") -> Bundle:
    """Read a bundle, or the bundle of a published generation, with the model in evaluation mode on the CPU.

    Args:
        directory: what ``save_bundle`` or publishing has written.
        check: how thoroughly files are checked first (see ``prerank.publish.files.verify``).

    Raises:
        ArtefactError: any file of the directory is missing, changed or additional, the format version is another
            one, or the weights do not fit the configured model.
        ConfigError: the configuration is of a prerank that knew other keys.
    """
    manifest = verify(directory, check)
    for name in FILES:
        if name not in manifest["files"]:
            raise ArtefactError(f"{directory / name}: is missing; the directory is not a bundle")
    schema = parse(Schema, _read_json(directory / "schema.json"), str(directory / "schema.json"))
    values = _read_json(directory / "config.json")
    vocabularies = pl.read_ipc(directory / "vocabularies.arrow")
    encoder = Encoder.restore(schema, values["history"], vocabularies, _read_json(directory / "buckets.json"))
    config = model_config(values["model"], str(directory / "config.json"))
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn, and nobody else's numbers may change
        model = create(config, encoder.inputs)
    try:
        model.load_state_dict(load_file(directory / WEIGHTS))
    except RuntimeError as error:
        raise ArtefactError(f"{directory / WEIGHTS}: does not fit the model: {' '.join(str(error).split())}") from None
    return Bundle(model.eval().requires_grad_(False), encoder, config, _read_json(directory / "report.json"))


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    try:
        text = json.dumps(values, indent=2, allow_nan=False)
    except ValueError:
        raise ArtefactError(f"{path}: holds a number that is not finite, which JSON has no form for") from None
    path.write_text(text + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
