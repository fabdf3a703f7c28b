"""What the rows of a study cost: seconds an epoch of training, milliseconds a request, bytes an item, parameters."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from prerank.bench.environment import environment
from prerank.bench.latency import one_thread
from prerank.bench.latency_world import (
    catalogue,
    opened,
    publish,
    random_bundle,
    random_requests,
    representation_bytes,
    scoring,
)
from prerank.bench.timing import interleaved, quantiles
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset, Loader
from prerank.data.log import Dataset
from prerank.models.base import PreRankingModel
from prerank.models.registry import create
from prerank.study.experiment import describe_dataset
from prerank.study.papers.cells import Plan
from prerank.study.papers.outcome import commands, paper
from prerank.training.config import RunConfig
from prerank.training.trainer import Quiet, train

HISTORY, SEED = 50, 1
UNTIMED = 2
"""Steps at the start of a training that are not timed."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Effort:
    """How long is measured.

    Attributes:
        rounds: times that each row is trained for a while, the rows taking turns.
        steps: of each of these trainings.
        items: of the catalogue that requests are answered from.
        repeats, budget: requests of each way at most, and seconds.
    """

    rounds: int = 3
    steps: int = 12
    items: int = 100_000
    repeats: int = 300
    budget: float = 4.0


def measure(plan: Plan, rows: Sequence[str], effort: Effort, progress: Progress) -> dict[str, Any]:
    """Measure the rows of a study on one thread, each quantity with the rows taking turns.

    Training is timed on the study's data set by the real training loop; requests are those of ``prerank bench
    latency``: published models with random weights and random requests with histories of 50.

    Returns:
        JSON-ready; of each row ``epoch_seconds``, ``latency`` by number of candidates (as ``served`` and
        ``naive``, by the model's own functions), ``representation_bytes``, ``parameters`` and those of the user's side.
    """
    form = plan.study.measured
    assert form is not None
    dataset = Dataset.load(plan.directory)
    data = EncodedDataset(dataset, Encoder.fit(dataset))
    configs = {row: plan.cell(row, SEED).config for row in rows}
    with one_thread(), tempfile.TemporaryDirectory() as place:
        latency = _latency(configs, form.candidates, effort, Path(place), progress)
        seconds = _epochs(configs, data, effort, Path(place), progress) if form.training else {}
    measured = {row: {**_sizes(configs[row], data), **latency[row], "epoch_seconds": seconds.get(row)} for row in rows}
    for row, found in measured.items():
        declared = plan.study.rows[row]
        found |= {"title": declared.title, "x": declared.x, "series": declared.series, "model": dict(declared.model)}
    return {
        "study": plan.study.name,
        "title": plan.study.title,
        "base": plan.study.base,
        "data": plan.data.name if plan.data else dataset.name,
        "dataset": describe_dataset(dataset),
        "figure": plan.study.figure.model_dump(mode="json"),
        "measured": {"history": HISTORY, "threads": 1, "items": effort.items},
        "rows": measured,
        "paper": paper(plan),
        "commands": commands(plan, dict.fromkeys(rows, ())),
        "environment": environment(),
    }


class _EnoughError(Exception):
    """So many steps are done; ends a training."""


class _Stopwatch(Quiet):
    """Notes when each step was done and ends the training after so many."""

    def __init__(self, steps: int) -> None:
        self.steps, self.times = steps, [time.perf_counter()]

    def step(self, epoch: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        del epoch, step, loss, rows_per_second
        self.times.append(time.perf_counter())
        if len(self.times) > min(self.steps, steps):
            raise _EnoughError


def _epochs(
    configs: Mapping[str, RunConfig], data: EncodedDataset, effort: Effort, place: Path, progress: Progress
) -> dict[str, float]:
    """Seconds an epoch: the median over rounds of a step's mean, times the steps."""
    found: dict[str, list[float]] = {row: [] for row in configs}
    for round_ in range(effort.rounds):
        for number, (row, config) in enumerate(configs.items()):
            progress(f"training {row}", round_ * len(configs) + number, effort.rounds * len(configs))
            watch = _Stopwatch(effort.steps + UNTIMED)
            with suppress(_EnoughError):
                train(config, data, place / f"train-{row}-{round_}", watch)
            seconds = np.diff(watch.times)
            found[row].append(float(seconds[min(UNTIMED, len(seconds) - 1) :].mean()))
    steps = {row: _steps(config, data) for row, config in configs.items()}
    return {row: float(np.median(seconds)) * steps[row] for row, seconds in found.items()}


def _steps(config: RunConfig, data: EncodedDataset) -> int:
    training = config.training
    loader = Loader(data, "train", training.batch_rows, config.seed, training.fresh_negatives, training.negatives)
    return len(loader)


def _latency(
    configs: Mapping[str, RunConfig], candidates: Sequence[int], effort: Effort, place: Path, progress: Progress
) -> dict[str, dict[str, Any]]:
    items, served, naive = catalogue(effort.items, SEED).lazy(), {}, {}
    found: dict[str, dict[str, Any]] = {}
    for number, (row, config) in enumerate(configs.items()):
        progress(f"publishing {row}", number, len(configs))
        changes = {key: value for key, value in config.model.items() if key != "name"}
        bundle = random_bundle(config.model["name"], effort.items, SEED, **changes)
        publish(bundle, items, place / row, "float32", None)
        served[row], naive[row] = opened(place / row)
        found[row] = {"latency": {}, "representation_bytes": representation_bytes(served[row])}
    some = next(iter(served.values()))
    for number, count in enumerate(candidates):
        progress(f"{count:,} candidates", number, len(candidates))
        requests = random_requests(some, 200, count, HISTORY, effort.items, SEED)
        ways = {f"{row} served": scoring(generation) for row, generation in served.items()}
        ways |= {f"{row} naive": scoring(generation) for row, generation in naive.items()}
        times = interleaved(ways, requests, effort.repeats, effort.budget)
        for row in configs:
            of_row = {way: quantiles(times[f"{row} {way}"]) for way in ("served", "naive")}
            found[row]["latency"][str(count)] = of_row
    return found


def _sizes(config: RunConfig, data: EncodedDataset) -> dict[str, int]:
    """Parameters in all, and of the user's side with its tables (IntTower's Table 3): all of them in a single tower."""
    torch.manual_seed(SEED)
    model = create(config.architecture, data.encoder.inputs)
    every = _count(model)
    item = sum(_count(part) for name, part in model.named_children() if name.startswith("item"))
    return {"parameters": every, "user_parameters": every - item if _has_towers(model) else every}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _has_towers(model: PreRankingModel) -> bool:
    return any(name == "item_tower" for name, _ in model.named_children())
