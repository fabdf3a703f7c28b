"""A search has the same budget for every model, survives kills, and never looks at the test part."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from prerank.models.registry import MODELS
from prerank.study.experiment import resolved
from prerank.study.tuning import SPACE, with_values
from prerank.training.config import RunConfig, read_run

Prerank = Callable[..., tuple[int, str, str]]
MODEL = {"name": "two_tower", "embedding": 4, "tower": [16, 8]}
TRAINING = {"max_epochs": 30, "patience": 30, "checkpoint_steps": 1}


@pytest.fixture(scope="module")
def config(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tuning") / "run.yaml"
    path.write_text(yaml.safe_dump({"data": str(built), "model": MODEL, "training": TRAINING}))
    return path


def arguments(config: Path, folder: Path) -> list[str]:
    files = {"--storage": "search.journal", "--best": "best.yaml", "--json": "trials.json"}
    named = [word for option, name in files.items() for word in (option, str(folder / name))]
    return ["tune", str(config), "--trials", "4", *named]


@pytest.fixture(scope="module")
def searched(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A search in one go, and one whose process was killed within a trial and begun again."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("whole", "killed")}
    commands = {name: [sys.executable, "-m", "prerank", *arguments(config, folder)] for name, folder in folders.items()}
    process = subprocess.Popen(commands["killed"], stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (folders["killed"] / "search" / "trial-1" / "checkpoint.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folders["killed"] / "best.yaml").exists()
    for command in commands.values():
        subprocess.run(command, check=True, capture_output=True)
    return folders


def test_a_killed_search_ends_as_if_it_had_not_been(searched: dict[str, Path]) -> None:
    whole, killed = (json.loads((folder / "trials.json").read_text()) for folder in searched.values())
    assert len(whole["trials"]) == 4
    assert whole == killed
    best = (searched["killed"] / "best.yaml").read_text()
    assert best == (searched["whole"] / "best.yaml").read_text()


def test_the_first_trial_is_the_configuration_and_the_best_is_written(searched: dict[str, Path], config: Path) -> None:
    facts = json.loads((searched["whole"] / "trials.json").read_text())
    own = resolved(read_run(config))
    first = facts["trials"][0]["values"]
    assert first == {key: own[key.split(".")[0]][key.split(".")[1]] for key in SPACE}
    aucs = [trial["valid_auc"] for trial in facts["trials"]]
    assert facts["trials"][facts["best"]]["valid_auc"] == max(aucs)
    best = resolved(read_run(searched["whole"] / "best.yaml"))
    found = {key: best[key.split(".")[0]][key.split(".")[1]] for key in SPACE}
    assert found == facts["trials"][facts["best"]]["values"]
    log = (searched["whole"] / "search" / f"trial-{facts['best']}" / "metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["valid_auc"] for line in log) == max(aucs)


def test_further_trials_are_added_and_the_test_part_is_not_scored(
    searched: dict[str, Path], config: Path, prerank: Prerank
) -> None:
    folder = searched["whole"]
    code, out, err = prerank(*arguments(config, folder), "--trials", "5")
    assert code == 0, err
    assert len(json.loads((folder / "trials.json").read_text())["trials"]) == 5
    assert out.count("best") == 1
    assert not list(folder.rglob("test_logits.npy"))


def test_another_search_in_the_same_storage_is_refused(
    searched: dict[str, Path], config: Path, prerank: Prerank
) -> None:
    code, _, err = prerank(*arguments(config, searched["killed"]), "--set", "model.embedding=8")
    assert code == 2
    assert "is a search with another model" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_every_knob(name: str) -> None:
    values = {key: knob.choices[-1] if knob.choices else 0.00123456 for key, knob in SPACE.items()}
    changed = resolved(with_values(RunConfig(data=Path("data"), model={"name": name}), values))
    assert changed["training"]["learning_rate"] == 0.00123
    assert changed["model"]["embedding_std"] == 0.05
