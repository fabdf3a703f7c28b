"""The one training loop: every model, early stopping, best weights, exact resume."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from prerank.batch import Batch
from prerank.data.loader import EncodedDataset, Loader
from prerank.errors import ArtefactError, ConfigError, DataError
from prerank.evaluation.evaluate import evaluate
from prerank.models.base import PreRankingModel
from prerank.models.registry import create
from prerank.training.checkpoint import (
    group,
    load_checkpoint,
    optimiser_tensors,
    prefixed,
    restore_optimiser,
    save_checkpoint,
    weights,
)
from prerank.training.config import RunConfig
from prerank.training.memory import keep_freed_memory
from prerank.training.optimiser import make_optimiser
from prerank.training.teacher import Teacher

LOG = "metrics.jsonl"


class Reporter(Protocol):
    """Who hears of progress: a progress bar, log lines, a test."""

    def message(self, text: str) -> None:
        """Something that a person should read."""

    def step(self, epoch: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        """A training step is done; ``loss`` is the epoch's mean so far."""

    def epoch(self, record: dict[str, Any]) -> None:
        """An epoch is done; ``record`` is its line of the log."""


class Quiet:
    """A reporter for callers who only want the result."""

    def message(self, text: str) -> None:
        """Warnings are part of the log, too."""

    def step(self, epoch: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        """Nothing."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Nothing."""


@dataclass
class Progress:
    """Where a run stands; everything that resuming needs besides tensors."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    auxiliary_sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    best_epoch: int = -1
    best_auc: float = float("-inf")
    finished: bool = False
    log: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    """A model with its best weights, and how it got there."""

    model: PreRankingModel
    epochs: float
    log: list[dict[str, Any]]


def train(
    config: RunConfig, data: EncodedDataset, out: Path, reporter: Reporter, teacher: Teacher | None = None
) -> Trained:
    """Train until validation AUC stops rising, or continue a run that was interrupted.

    Args:
        config: the run.
        data: the encoded data set; its encoder defines the model's inputs.
        out: directory of checkpoints and of the log ``metrics.jsonl``, one line an epoch.
        reporter: hears of every step and epoch.
        teacher: what ``config.training.teacher`` names.

    Raises:
        ConfigError: a teacher is named and none is given, or the other way round.
        ArtefactError: the checkpoint in ``out`` is damaged or belongs to another configuration or data set.
        DataError: the loss is no longer finite.
    """
    keep_freed_memory()
    run = TrainingRun(config, data, out, reporter, teacher)
    run.resume()
    while not run.progress.finished:
        run.train_epoch()
        run.validate()
    run.model.load_state_dict(run.best)
    return Trained(run.model, float(run.progress.best_epoch + 1), run.progress.log)


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` takes a GPU where there is one.

    Raises:
        ConfigError: PyTorch does not know the name, or the device is not there.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"training.device: {name!r} cannot be used here: {reason}") from None
    return device


class TrainingRun:
    """A run in memory: model, optimiser, best weights, progress."""

    def __init__(
        self, config: RunConfig, data: EncodedDataset, out: Path, reporter: Reporter, teacher: Teacher | None
    ) -> None:
        self.config, self.data, self.out, self.reporter = config, data, out, reporter
        settings = config.training
        sampling = "fresh_negatives" if settings.fresh_negatives else "negatives" if settings.negatives else None
        if sampling and data.dataset.protocol.labels != "sampled":
            raise ConfigError(f"training.{sampling}: the data set's labels are given, none are sampled")
        if (settings.teacher is None) != (teacher is None):
            raise ConfigError("training.teacher: the configuration and the loaded teacher do not go together")
        self.device = choose_device(settings.device)
        self.teacher = teacher and Teacher(teacher.model.to(self.device), teacher.fingerprint)
        torch.manual_seed(config.seed)
        self.model = create(config.architecture, data.encoder.inputs).to(self.device)
        self.optimiser = make_optimiser(self.model, settings, fused=self.device.type in ("cpu", "cuda"))
        self.relaxed = torch.compile(self.model.relaxed) if settings.compile else self.model.relaxed
        self.loader = Loader(
            data, "train", settings.batch_rows, config.seed, settings.fresh_negatives, settings.negatives
        )
        self.prior = _prior(self.loader)
        self.best = weights(self.model)
        self.progress = Progress()
        self.identity = _identity(config, data, teacher)

    def resume(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        saved = load_checkpoint(self.out)
        if saved is None:
            return
        tensors, state = saved
        if state["identity"] != self.identity:
            raise ArtefactError(
                f"{self.out}: its checkpoint is of another configuration or data set; "
                "choose another --out, or pass --restart"
            )
        self.model.load_state_dict(group("model", tensors))
        restore_optimiser(self.optimiser, group("optimiser", tensors))
        self.best = group("best", tensors)
        torch.set_rng_state(tensors["rng"])
        self.progress = Progress(**state["progress"])
        self.reporter.message(f"resuming at epoch {self.progress.epoch + 1}, step {self.progress.step}")

    def train_epoch(self) -> None:
        progress, steps = self.progress, len(self.loader)
        self.model.train()
        rows, begun = 0, time.perf_counter()
        earlier = progress.seconds
        for batch in self.loader.batches(progress.epoch, start=progress.step):
            loss = self.step(batch.to(self.device), progress.epoch + progress.step / steps)
            progress.step += 1
            progress.loss_sum += loss
            rows += batch.labels.numel()
            elapsed = time.perf_counter() - begun
            progress.seconds = earlier + elapsed
            self.reporter.step(progress.epoch, progress.step, steps, progress.loss_sum / progress.step, rows / elapsed)
            if progress.step % self.config.training.checkpoint_steps == 0 and progress.step < steps:
                self._checkpoint()

    def validate(self) -> None:
        """Close the epoch: validate by the served path, keep the best weights, decide whether to stop."""
        progress = self.progress
        begun = time.perf_counter()
        result = evaluate(self.model, self.data, "valid", self.device, epochs=progress.epoch + 1, gap=False)
        if result.metrics["auc"] is None:
            raise DataError("the validation part has one class only; its AUC cannot choose a checkpoint")
        record = {
            "epoch": progress.epoch + 1,
            "train_loss": progress.loss_sum / len(self.loader),
            **{f"train_{name}": total / len(self.loader) for name, total in progress.auxiliary_sums.items()},
            **{f"valid_{name}": value for name, value in result.metrics.items()},
            "rows_per_second": len(self.loader.rows) * self.loader.candidates / progress.seconds,
            "train_seconds": progress.seconds,
            "valid_seconds": time.perf_counter() - begun,
        }
        progress.log.append(record)
        if result.metrics["auc"] > progress.best_auc:
            progress.best_auc, progress.best_epoch = result.metrics["auc"], progress.epoch
            self.best = weights(self.model)
        training = self.config.training
        worse_for = progress.epoch - progress.best_epoch
        progress.finished = worse_for >= training.patience or progress.epoch + 1 >= training.max_epochs
        progress.epoch, progress.step, progress.loss_sum, progress.seconds = progress.epoch + 1, 0, 0.0, 0.0
        progress.auxiliary_sums = {}
        self._checkpoint()
        lines = "".join(json.dumps(line) + "\n" for line in progress.log)
        (self.out / LOG).write_text(lines, encoding="utf-8")
        self.reporter.epoch(record)
        self._warn_of_collapse(record)

    def step(self, batch: Batch, epochs: float) -> float:
        """One step of the optimiser; the loss before it."""
        training = self.config.training
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=training.amp):
            logits, extra = self.relaxed(batch, epochs)
            loss: Tensor = F.binary_cross_entropy_with_logits(logits.float() + self.prior, batch.labels)
        if self.teacher is not None:
            extra = {**extra, "distillation": training.teacher_weight * self.teacher.loss(logits.float(), batch)}
        sums = self.progress.auxiliary_sums
        for name, auxiliary in extra.items():
            loss = loss + auxiliary
            sums[name] = sums.get(name, 0.0) + auxiliary.item()
        value = loss.item()
        if not math.isfinite(value):
            raise DataError(f"the loss is {value} at epoch {epochs:.2f}; lower training.learning_rate")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.clip_norm)
        self.optimiser.step()
        return value

    def _checkpoint(self) -> None:
        tensors = {
            **prefixed("model", self.model.state_dict()),
            **prefixed("optimiser", optimiser_tensors(self.optimiser)),
            **prefixed("best", self.best),
            "rng": torch.get_rng_state(),
        }
        save_checkpoint(self.out, tensors, {"identity": self.identity, "progress": asdict(self.progress)})

    def _warn_of_collapse(self, record: dict[str, Any]) -> None:
        for name, value in record.items():
            if isinstance(value, dict) and value["perplexity"] < value["of"] / 8:
                self.reporter.message(
                    f"warning: {name.removeprefix('valid_')} is collapsing: {value['used']} of {value['of']} in use, "
                    f"perplexity {value['perplexity']:.1f}"
                )


def _prior(loader: Loader) -> float:
    """What further negatives add to every logit in training, so that what is learned are the odds of the stored ones.

    With n negatives of a positive in place of m, odds are m / n times as high (prior correction, King and Zeng 2001).
    """
    stored: int = loader.rows.items.shape[1]
    return 0.0 if loader.candidates == stored else math.log((stored - 1) / (loader.candidates - 1))


def _identity(config: RunConfig, data: EncodedDataset, teacher: Teacher | None) -> str:
    """A hash of what must not change between a checkpoint and its continuation.

    How often to checkpoint and how long to train may change; the paths of data and teacher may, their content not. A
    decay of zero is not written, as before there was one.
    """
    dataset = data.dataset
    free = {"checkpoint_steps", "max_epochs", "patience", "teacher"}
    if not config.training.embedding_decay:
        free.add("embedding_decay")
    content = {
        "model": config.architecture.model_dump(mode="json"),
        "training": config.training.model_dump(mode="json", exclude=free),
        "teacher": teacher and teacher.fingerprint,
        "seed": config.seed,
        "data": [dataset.name, dataset.schema.model_dump(), dataset.protocol.model_dump(mode="json"), dataset.facts],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
