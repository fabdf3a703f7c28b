"""Choosing fields: a model that weighs them is trained, the best are kept, the run is written down to train again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from prerank.config import parse
from prerank.data.loader import EncodedDataset, Loader
from prerank.data.log import Dataset
from prerank.errors import ConfigError, DataError
from prerank.models.cold import COLD
from prerank.models.fscd import FSCD
from prerank.models.registry import MODELS, reads_pairs
from prerank.models.selectable import SelectableConfig
from prerank.publish.bundle import load_bundle
from prerank.schema import Inputs
from prerank.study.experiment import BUNDLE, finished, resolved, run_experiment
from prerank.training.config import RunConfig
from prerank.training.trainer import Reporter, choose_device

Method = Literal["se", "fscd"]
SELECTORS: dict[Method, str] = {"se": "cold", "fscd": "fscd"}
SELECTION, RETRAIN, SELECTOR = "selection.json", "retrain.yaml", "selector"
BATCH_ROWS = 16_384


def select_fields(
    config: RunConfig,
    out: Path,
    keep: int,
    method: Method,
    settings: Mapping[str, Any],
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Rank the fields of a run's data and write ``selection.json`` and ``retrain.yaml`` to ``out``.

    The selector is trained as a run of its own in ``out/selector``, on the data and with the training settings and
    seed of the run; ``se`` is COLD with its field weights, ``fscd`` the gates that know what a field costs. Where
    that run is finished it is used as it is.

    Args:
        config: the run whose model shall have fewer fields.
        out: directory; the selector's run in it continues if it was interrupted.
        keep: how many fields to keep.
        method: ``se`` or ``fscd``.
        settings: keys of the selector's own configuration.
        reporter: hears of the training.

    Returns:
        What ``selection.json`` says: every field with importance and whether it is kept, the best first.

    Raises:
        ConfigError: the run's model has no ``fields``, a setting is wrong, or so few fields cannot be kept.
        DataError: ``out/selector`` holds another run.
    """
    if not isinstance(config.architecture, SelectableConfig):
        names = [name for name, entry in MODELS.items() if issubclass(entry.config, SelectableConfig)]
        raise ConfigError(f"model.name: fields can be chosen for {', '.join(names)}")
    dataset = Dataset.load(config.data)
    if dataset.schema.pair and not reads_pairs(config.architecture):
        raise ConfigError(f"model.name: {config.model['name']} reads no pair fields; choose on data without them")
    selector = _selector(config, method, settings)
    run = out / SELECTOR
    if (run / "report.json").is_file():
        if resolved(finished(run)[0]) != resolved(selector):
            raise DataError(f"{run}: holds another run; choose another --out")
    else:
        run_experiment(selector, run, reporter)
    bundle = load_bundle(run / BUNDLE)
    model = bundle.model
    assert isinstance(model, COLD | FSCD)
    device = choose_device(config.training.device)
    data = EncodedDataset(dataset, bundle.encoder)
    importance = field_importance(model.to(device), data, device)
    chosen = choose(importance, bundle.encoder.inputs, keep)
    fields = [
        {"field": name, "importance": importance[name], "kept": name in chosen}
        for name in sorted(importance, key=importance.__getitem__, reverse=True)
    ]
    selection = {"method": method, "keep": keep, "fields": fields}
    (out / SELECTION).write_text(json.dumps(selection, indent=2) + "\n", encoding="utf-8")
    retrain = {**resolved(config), "model": {**config.model, "fields": list(chosen)}}
    (out / RETRAIN).write_text(yaml.safe_dump(retrain, sort_keys=False), encoding="utf-8")
    return selection


@torch.inference_mode()
def field_importance(model: COLD | FSCD, data: EncodedDataset, device: torch.device) -> dict[str, float]:
    """Each field's mean weight over the pairs of the training part."""
    total, pairs = torch.zeros(len(model.field_names), dtype=torch.float64), 0
    for batch in Loader(data, "train", BATCH_ROWS, seed=0).batches():
        mean: Tensor = model.importance(batch.to(device))
        total += mean.double().cpu() * batch.labels.numel()
        pairs += batch.labels.numel()
    return dict(zip(model.field_names, (total / pairs).tolist(), strict=True))


def choose(importance: Mapping[str, float], inputs: Inputs, keep: int) -> tuple[str, ...]:
    """The ``keep`` most important fields that a model can be made of, in the data's order.

    Every side keeps its best field, and a history field comes with the item field whose table it shares; otherwise
    the order is that of importance, and whatever does not fit any more is passed over.

    Raises:
        ConfigError: fewer fields than a model needs, or more than there are.
    """
    best = sorted(importance, key=importance.__getitem__, reverse=True)
    kept = _with_needs(next(name for name in best if name.startswith("history.")))
    kept |= {next(name for name in best if name.startswith("user."))}
    if not len(kept) <= keep <= len(best):
        raise ConfigError(
            f"--keep {keep}: from {len(kept)} ({', '.join(sorted(kept))} at least) to {len(best)} fields can be kept"
        )
    for name in best:
        wider = kept | _with_needs(name)
        if len(wider) <= keep:
            kept = wider
    return tuple(name for name in inputs.names if name in kept)


def _with_needs(name: str) -> set[str]:
    side, field = name.split(".", 1)
    return {name, f"item.{field}"} if side == "history" else {name}


def _selector(config: RunConfig, method: Method, settings: Mapping[str, Any]) -> RunConfig:
    """The run of the selector: sizes of the model to be retrained where both have them, and all fields."""
    name = SELECTORS[method]
    known: Sequence[str] = ("embedding", "embedding_std", "tower")
    sizes = {key: value for key, value in config.architecture.model_dump(mode="json").items() if key in known}
    model = parse(MODELS[name].config, {"name": name, **sizes, **settings}, "selector")
    return config.model_copy(update={"model": model.model_dump(mode="json")})
