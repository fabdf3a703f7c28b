"""The loop learns, stops, keeps the best weights, and continues exactly after a SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prerank.data.build import build
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset
from prerank.data.protocol import Protocol
from prerank.data.sources.synthetic import best_auc, checkerboard
from prerank.errors import ArtefactError, ConfigError, DataError
from prerank.evaluation.evaluate import evaluate
from prerank.models.registry import create, model_config
from prerank.training.checkpoint import POINTER, load_checkpoint, save_checkpoint
from prerank.training.config import RunConfig, TrainingConfig
from prerank.training.optimiser import make_optimiser
from prerank.training.trainer import LOG, choose_device, train

SMALL: dict[str, dict[str, Any]] = {
    "two_tower": {"name": "two_tower", "embedding": 8, "tower": (32, 16)},
    "fit": {"name": "fit", "embedding": 8, "tower": (32, 16), "meta_queries": 8, "head_width": 8, "attention": (16, 8)},
}


class Silent:
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.records: list[dict[str, Any]] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def step(self, epoch: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        assert epoch >= 0
        assert 1 <= step <= steps
        assert loss > 0
        assert rows_per_second > 0

    def epoch(self, record: dict[str, Any]) -> None:
        self.records.append(record)


def config(name: str, built: Path, **training: Any) -> RunConfig:
    settings = {"batch_rows": 128, "max_epochs": 3, "learning_rate": 0.01, **training}
    return RunConfig(data=built, model=SMALL[name], training=TrainingConfig(**settings))


@pytest.mark.parametrize("name", SMALL)
def test_learns_the_checkerboard(name: str, built: Path, encoded: EncodedDataset, tmp_path: Path) -> None:
    """The groups are all there is to learn, so the best possible AUC is known."""
    trained = train(config(name, built, max_epochs=25, patience=6), encoded, tmp_path, Silent())
    result = evaluate(trained.model, encoded, "test", torch.device("cpu"), epochs=trained.epochs)
    bound = best_auc(items=80, events_per_user=12)
    assert bound - 0.12 < result.metrics["auc"] < bound + 0.08  # 240 test rows


def test_log_has_one_line_an_epoch(built: Path, encoded: EncodedDataset, tmp_path: Path) -> None:
    reporter = Silent()
    trained = train(config("fit", built), encoded, tmp_path, reporter)
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines == reporter.records == trained.log
    assert lines[0]["valid_query_index"]["of"] == 8
    assert 1 <= lines[0]["valid_query_index"]["perplexity"] <= lines[0]["valid_query_index"]["used"] <= 8
    assert lines[-1]["valid_query_similarity"] > 0.99  # the temperature has reached its floor


def test_best_weights_are_kept(built: Path, encoded: EncodedDataset, tmp_path: Path) -> None:
    trained = train(config("two_tower", built, max_epochs=12, patience=2), encoded, tmp_path, Silent())
    best = max(record["valid_auc"] for record in trained.log)
    result = evaluate(trained.model, encoded, "valid", torch.device("cpu"), epochs=trained.epochs)
    assert result.metrics["auc"] == best
    assert trained.log[int(trained.epochs) - 1]["valid_auc"] == best


def test_stops_when_validation_no_longer_improves(built: Path, encoded: EncodedDataset, tmp_path: Path) -> None:
    trained = train(config("two_tower", built, max_epochs=60, patience=2), encoded, tmp_path, Silent())
    aucs = [record["valid_auc"] for record in trained.log]
    assert len(aucs) < 60
    assert aucs.index(max(aucs)) == len(aucs) - 3


def test_seed_decides_everything(built: Path, encoded: EncodedDataset, tmp_path: Path) -> None:
    one = train(config("fit", built), encoded, tmp_path / "a", Silent()).model.state_dict()
    two = train(config("fit", built), encoded, tmp_path / "b", Silent()).model.state_dict()
    other = RunConfig(**{**dict(config("fit", built)), "seed": 2})
    three = train(other, encoded, tmp_path / "c", Silent()).model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["user_tower.layers.0.weight"], three["user_tower.layers.0.weight"])


def test_fresh_negatives_change_training_only_where_sampled(
    built: Path, encoded: EncodedDataset, tmp_path: Path
) -> None:
    fixed = train(config("two_tower", built), encoded, tmp_path / "fixed", Silent())
    fresh = train(config("two_tower", built, fresh_negatives=True), encoded, tmp_path / "fresh", Silent())
    assert fixed.log[1]["train_loss"] != fresh.log[1]["train_loss"]
    assert fixed.log[0]["valid_base_rate"] == fresh.log[0]["valid_base_rate"]


def test_more_negatives_change_training_alone(built: Path, encoded: EncodedDataset, tmp_path: Path) -> None:
    few = train(config("two_tower", built), encoded, tmp_path / "few", Silent())
    many = train(config("two_tower", built, negatives=4), encoded, tmp_path / "many", Silent())
    assert few.log[0]["train_loss"] != many.log[0]["train_loss"]
    assert {epoch["valid_base_rate"] for epoch in (*few.log, *many.log)} == {0.5}
    assert {epoch["valid_rows"] for epoch in (*few.log, *many.log)} == {few.log[0]["valid_rows"]}


def test_probabilities_stay_those_of_the_data_set(built: Path, encoded: EncodedDataset, tmp_path: Path) -> None:
    """Trained with four negatives a positive, on one a positive: the mean probability is a half, not a fifth."""
    settings = TrainingConfig(batch_rows=128, max_epochs=8, learning_rate=0.01, negatives=4)
    run = RunConfig(data=built, model={"name": "lr"}, training=settings)
    many = train(run, encoded, tmp_path, Silent())
    assert many.log[-1]["valid_calibration"] == pytest.approx(1.0, abs=0.1)
    assert many.log[-1]["valid_base_rate"] == 0.5


@pytest.mark.parametrize("option", [{"fresh_negatives": True}, {"negatives": 4}])
def test_negatives_are_drawn_where_labels_are_sampled_only(option: dict[str, Any], tmp_path: Path) -> None:
    raw = checkerboard(users=20, items=40, events_per_user=6)
    labels = np.arange(raw.events.height) % 2
    given = replace(raw, events=raw.events.with_columns(label=labels))
    dataset = build(given, Protocol(labels="given", test="rows", test_size=0.2))
    with pytest.raises(ConfigError, match=f"training.{next(iter(option))}: the data set's labels are given"):
        train(config("fit", tmp_path, **option), EncodedDataset(dataset, Encoder.fit(dataset)), tmp_path, Silent())


def test_decay_shrinks_embeddings_and_nothing_else(encoded: EncodedDataset) -> None:
    settings = TrainingConfig(embedding_decay=10.0, learning_rate=0.01)
    model = create(model_config(SMALL["two_tower"], "test"), encoded.encoder.inputs)
    optimiser = make_optimiser(model, settings, fused=True)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, before[name] * (0.9 if "tables" in name else 1.0))
    assert sum("tables" in name for name in before) == len(encoded.encoder.inputs.user) + len(
        encoded.encoder.inputs.item
    )


def test_a_run_with_decay_resumes_exactly(built: Path, encoded: EncodedDataset, tmp_path: Path) -> None:
    whole = train(config("fit", built, max_epochs=2, embedding_decay=1.0), encoded, tmp_path / "whole", Silent())
    train(config("fit", built, max_epochs=1, embedding_decay=1.0), encoded, tmp_path / "parts", Silent())
    pointer = json.loads((tmp_path / "parts" / POINTER).read_text())
    pointer["state"]["progress"]["finished"] = False
    (tmp_path / "parts" / POINTER).write_text(json.dumps(pointer))
    parts = train(config("fit", built, max_epochs=2, embedding_decay=1.0), encoded, tmp_path / "parts", Silent())
    assert parts.log[1]["train_loss"] == whole.log[1]["train_loss"]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(parts.model.state_dict()[name], value), name


def test_diverging_loss_is_an_error(built: Path, encoded: EncodedDataset, tmp_path: Path) -> None:
    settings = config("two_tower", built, learning_rate=1e30)
    with pytest.raises(DataError, match="learning_rate"):
        train(settings, encoded, tmp_path, Silent())


def test_checkpoint_of_another_run_is_refused(built: Path, encoded: EncodedDataset, tmp_path: Path) -> None:
    train(config("two_tower", built), encoded, tmp_path, Silent())
    with pytest.raises(ArtefactError, match="another configuration"):
        train(config("two_tower", built, learning_rate=0.02), encoded, tmp_path, Silent())
    dataset = encoded.dataset
    counting = replace(dataset, schema=dataset.schema.counting(["category"]))
    with pytest.raises(ArtefactError, match="another configuration or data set"):
        train(config("two_tower", built), EncodedDataset(counting, Encoder.fit(counting)), tmp_path, Silent())


def test_a_finished_run_trains_no_further(built: Path, encoded: EncodedDataset, tmp_path: Path) -> None:
    first = train(config("two_tower", built), encoded, tmp_path, Silent())
    again = train(config("two_tower", built), encoded, tmp_path, Silent())
    assert again.log == first.log


def test_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"w": torch.arange(8.0)}, {"step": 1})
    file = next(tmp_path.glob("checkpoint-*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtefactError, match=file.name):
        load_checkpoint(tmp_path)
    (tmp_path / POINTER).write_text("{")
    with pytest.raises(ArtefactError, match="--restart"):
        load_checkpoint(tmp_path)


def test_only_the_newest_checkpoint_stays(tmp_path: Path) -> None:
    for step in range(3):
        save_checkpoint(tmp_path, {"w": torch.full((2,), float(step))}, {"step": step})
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded[1] == {"step": 2}
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1


@pytest.mark.parametrize("name", ["tpu9", "cuda:99", ""])
def test_unusable_device_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.device"):
        choose_device(name)


TRAINING = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset
from prerank.data.log import Dataset
from prerank.training.config import RunConfig
from prerank.training.trainer import train

class Slow:
    def message(self, text): print(text, flush=True)
    def step(self, *what): time.sleep(float(sys.argv[3]))
    def epoch(self, record): pass

config = RunConfig.model_validate_json(Path(sys.argv[1]).read_text())
dataset = Dataset.load(config.data)
train(config, EncodedDataset(dataset, Encoder.fit(dataset)), Path(sys.argv[2]), Slow())
"""


def test_killed_and_resumed_is_bit_identical(built: Path, tmp_path: Path) -> None:
    """SIGKILL at several moments, then resume: weights, optimiser, generator and metrics as never interrupted."""
    run = RunConfig(
        data=built,
        model={**SMALL["fit"], "revival": True},
        training=TrainingConfig(batch_rows=64, max_epochs=4, checkpoint_steps=3, fresh_negatives=True),
    )
    settings = tmp_path / "run.json"
    settings.write_text(run.model_dump_json())
    script = tmp_path / "training.py"
    script.write_text(TRAINING)

    def start(out: Path, pause: float) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), str(settings), str(out), str(pause)]
        return subprocess.Popen(command, text=True, stdout=subprocess.PIPE)

    straight = start(tmp_path / "straight", 0)
    interrupted = tmp_path / "interrupted"
    kills = 0
    for delay in (0.25, 0.6, 0.4):
        process = start(interrupted, 0.02)
        while not (interrupted / POINTER).exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills == 3
    final = start(interrupted, 0)
    assert "resuming at epoch" in final.communicate()[0]
    assert final.returncode == 0
    assert straight.communicate() is not None
    assert straight.returncode == 0

    one, two = load_checkpoint(tmp_path / "straight"), load_checkpoint(interrupted)
    assert one is not None
    assert two is not None
    assert one[0].keys() == two[0].keys()
    for name in one[0]:
        assert torch.equal(one[0][name], two[0][name]), name
    assert [_untimed(record) for record in one[1]["progress"]["log"]] == [
        _untimed(record) for record in two[1]["progress"]["log"]
    ]


def _untimed(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if "second" not in name}
