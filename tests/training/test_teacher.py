"""Distillation: the loss, what it teaches, and which teachers are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prerank.batch import Batch
from prerank.data.build import build
from prerank.data.loader import EncodedDataset, Loader
from prerank.data.protocol import preset
from prerank.data.sources.synthetic import checkerboard
from prerank.errors import ArtefactError, ConfigError
from prerank.models.registry import create, model_config
from prerank.study.experiment import run_experiment
from prerank.training.config import RunConfig
from prerank.training.teacher import Teacher
from prerank.training.trainer import Quiet, train

SMALL: dict[str, Any] = {"name": "two_tower", "embedding": 8, "tower": (32, 16)}


def config(built: Path, **training: Any) -> RunConfig:
    settings = {"batch_rows": 128, "max_epochs": 2, "learning_rate": 0.01, **training}
    return RunConfig.model_validate({"data": built, "model": SMALL, "training": settings})


@pytest.fixture(scope="module")
def finished(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("teacher") / "run"
    run_experiment(config(built), run)
    return run


class Constant(torch.nn.Module):
    """A teacher that gives every row the same logit."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, batch: Batch) -> torch.Tensor:
        return torch.full_like(batch.labels, self.logit)


def test_loss_is_the_cross_entropy_to_the_teachers_probabilities(encoded: EncodedDataset) -> None:
    model = create(model_config(SMALL, "test"), encoded.encoder.inputs).eval()
    batch = next(Loader(encoded, "train", 40).batches())
    logits = torch.randn(batch.labels.shape, requires_grad=True)
    loss = Teacher(model, "").loss(logits, batch)
    with torch.no_grad():
        p, q = (1 / (1 + np.exp(-x.double().numpy())) for x in (model(batch), logits))
    assert loss.item() == pytest.approx(float(-(p * np.log(q) + (1 - p) * np.log(1 - q)).mean()), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_student_follows_its_teacher(built: Path, encoded: EncodedDataset, tmp_path: Path) -> None:
    """A teacher who is sure that nothing is positive, with much weight, takes the probabilities down."""
    sure = Teacher(Constant(-8.0), "sure")  # type: ignore[arg-type]
    batch = next(Loader(encoded, "valid", 400).batches())
    alone = train(config(built), encoded, tmp_path / "alone", Quiet())
    heavy = config(built, teacher="sure", teacher_weight=50.0, learning_rate=0.1, max_epochs=4)
    taught = train(heavy, encoded, tmp_path / "taught", Quiet(), sure)
    with torch.no_grad():
        means = [torch.sigmoid(run.model.eval()(batch)).mean().item() for run in (alone, taught)]
    assert means[1] < means[0] - 0.15
    assert taught.log[0]["train_distillation"] > taught.log[1]["train_distillation"] > 0
    assert "train_distillation" not in alone.log[0]


def test_another_teacher_cannot_continue(built: Path, encoded: EncodedDataset, tmp_path: Path) -> None:
    settings = config(built, teacher="somewhere")
    train(settings, encoded, tmp_path, Quiet(), Teacher(Constant(0.0), "one"))  # type: ignore[arg-type]
    with pytest.raises(ArtefactError, match="another configuration"):
        train(settings, encoded, tmp_path, Quiet(), Teacher(Constant(0.0), "two"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"training\.teacher"):
        train(settings, encoded, tmp_path, Quiet())


def test_a_run_learns_from_a_finished_run(built: Path, finished: Path, tmp_path: Path) -> None:
    report = run_experiment(config(built, teacher=str(finished)), tmp_path / "run")
    assert all(epoch["train_distillation"] > 0 for epoch in report["learning"])
    assert report["training"]["teacher"] == str(finished)


def test_unfit_teachers_are_refused_before_any_work(built: Path, finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    build(checkerboard(users=60, items=80, events_per_user=12, seed=4), preset("din", ["test_size=2"])).save(other)
    with pytest.raises(ConfigError, match=r"training\.teacher: .*another data set"):
        run_experiment(config(other, teacher=str(finished)), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"training\.teacher: .*nothing-here"):
        run_experiment(config(built, teacher=str(tmp_path / "nothing-here")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_auxiliary_losses_are_logged_by_name(built: Path, encoded: EncodedDataset, tmp_path: Path) -> None:
    """They are means over the epoch's steps, and resuming does not lose them."""
    run = RunConfig.model_validate(
        {
            "data": built,
            "model": {"name": "dat", "embedding": 8, "tower": (16, 8)},
            "training": {"batch_rows": 128, "max_epochs": 1},
        }
    )
    log = train(run, encoded, tmp_path, Quiet()).log
    assert {"train_mimic_user", "train_mimic_item", "train_alignment"} <= log[0].keys()
    assert log[0]["train_loss"] > log[0]["train_mimic_user"] > 0
    pointer = json.loads((tmp_path / "checkpoint.json").read_text())
    assert pointer["state"]["progress"]["log"][0]["train_alignment"] == log[0]["train_alignment"]
