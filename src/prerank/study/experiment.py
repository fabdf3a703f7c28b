"""One experiment: a data set and a configuration in, a run directory with bundle, scores and report out."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from prerank import __version__
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset
from prerank.data.log import Dataset
from prerank.data.protocol import Protocol
from prerank.errors import DataError
from prerank.evaluation.evaluate import Evaluation, evaluate, popularity
from prerank.models.registry import reads_pairs
from prerank.publish.bundle import Bundle, load_bundle, save_bundle
from prerank.study.teacher import load_teacher
from prerank.training.config import RunConfig, read_run
from prerank.training.trainer import Quiet, Reporter, choose_device, train

CONFIG, REPORT, BUNDLE, SCORES = "config.yaml", "report.json", "bundle", "test_logits.npy"


def run_experiment(config: RunConfig, out: Path, reporter: Reporter | None = None) -> dict[str, Any]:
    """Train, evaluate on the test part and write the run directory; an interrupted run continues.

    The directory holds ``config.yaml``, ``metrics.jsonl`` (one line an epoch), ``bundle/`` (the trained model),
    ``test_logits.npy`` (in stored order) and, written last, ``report.json``.

    Raises:
        DataError: ``out`` holds a finished run.
        PrerankError: whatever reading the data and training raise.
    """
    if (out / REPORT).exists():
        raise DataError(f"{out}: holds a finished run; choose another --out, or pass --restart")
    dataset = Dataset.load(config.data)
    data = EncodedDataset(dataset, Encoder.fit(dataset))
    named = config.training.teacher
    teacher = load_teacher(named / BUNDLE, describe_dataset(dataset), data) if named else None
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG).write_text(yaml.safe_dump(resolved(config), sort_keys=False), encoding="utf-8")
    reporter = reporter or Quiet()
    unread = [field.name for field in dataset.schema.pair if not reads_pairs(config.architecture)]
    if unread:
        reporter.message(f"pair features are not read: {', '.join(unread)}; this model's sides meet in the score only")
    trained = train(config, data, out, reporter, teacher)
    device = choose_device(config.training.device)
    parts = {part: evaluate(trained.model, data, part, device, epochs=trained.epochs) for part in ("valid", "test")}
    report = {
        "model": config.architecture.model_dump(mode="json"),
        "training": config.training.model_dump(mode="json"),
        "seed": config.seed,
        "dataset": describe_dataset(dataset),
        "unknown_share": data.unknown(),
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "best_epoch": int(trained.epochs),
        "valid": parts["valid"].metrics,
        "test": parts["test"].metrics,
        "popularity": {"test": popularity(dataset, "test").metrics},
        "learning": trained.log,
        "environment": environment(device),
    }
    np.save(out / SCORES, parts["test"].logits, allow_pickle=False)
    shutil.rmtree(out / BUNDLE, ignore_errors=True)
    save_bundle(Bundle(trained.model.cpu(), data.encoder, config.architecture, report), out / BUNDLE)
    (out / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def evaluate_run(run: Path, part: str) -> Evaluation:
    """Evaluate a finished run's bundle again on a part of its data set, by the served path.

    Raises:
        DataError: the run is not finished, or its data set is gone.
        ArtefactError: the bundle is damaged.
    """
    config, report = finished(run)
    bundle = load_bundle(run / BUNDLE)
    dataset = Dataset.load(config.data)
    device = choose_device(config.training.device)
    data = EncodedDataset(dataset, bundle.encoder)
    return evaluate(bundle.model.to(device), data, part, device, epochs=float(report["best_epoch"]))


def finished(run: Path) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration and report of a finished run.

    What an earlier version did not write of the protocol, because there was no choice, is filled in, so that its runs
    compare with those of this one.

    Raises:
        DataError: it is not a run directory, or its training has not ended.
    """
    if not (run / REPORT).is_file():
        state = "has not finished" if (run / CONFIG).is_file() else "is not a run directory"
        raise DataError(f"{run}: {state} (no {REPORT}); train with: prerank fit CONFIG --out {run}")
    try:
        report: dict[str, Any] = json.loads((run / REPORT).read_text(encoding="utf-8"))
        described = report["dataset"]
        described["protocol"] = Protocol(**described["protocol"]).model_dump(mode="json")
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{run / REPORT}: damaged; train again with --restart") from None
    return read_run(run / CONFIG), report


def by_name(runs: Sequence[Path]) -> dict[str, Path]:
    """Runs by what they are called: their directory's name; of a study's ROW/seed-N the row's, or both if several.

    Raises:
        DataError: two of them have the same name.
    """
    places = list(dict.fromkeys(run.resolve() for run in runs))
    of_study = {run for run in places if re.fullmatch(r"seed-\d+", run.name)}
    rows = Counter(run.parent.name for run in of_study)
    found: dict[str, Path] = {}
    for run in places:
        row = run.parent.name
        name = run.name if run not in of_study else row if rows[row] == 1 else f"{row} {run.name}"
        if found.setdefault(name, run) != run:
            raise DataError(f"{run}: runs need different names, and {found[name]} is called {name}, too")
    return found


def resolved(config: RunConfig) -> dict[str, Any]:
    """The configuration with every default written out, as it is stored beside the results."""
    values = config.model_dump(mode="json")
    values["model"] = config.architecture.model_dump(mode="json")
    return values


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """What every result must state: the data, its protocol, its facts."""
    return {
        "name": dataset.name,
        "protocol": dataset.protocol.model_dump(mode="json"),
        "facts": dict(dataset.facts),
    }


def environment(device: torch.device) -> dict[str, Any]:
    """What the run ran on."""
    return {
        "prerank": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
