"""A study from the command line: runs are kept and resumed, rows chosen, JSON becomes table and figure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prerank.study.lock import hold
from prerank.study.papers.cells import Plan
from prerank.study.papers.definition import find_data, find_study
from prerank.study.papers.figure import draw
from prerank.study.papers.outcome import commands
from prerank.study.papers.table import table

Prerank = Callable[..., tuple[int, str, str]]
SMALL: tuple[str, ...] = (
    "--set",
    "model.tower=[8, 4]",
    "--set",
    "model.embedding=4",
    "--set",
    "training.batch_rows=128",
)
SMALL += ("--set", "training.checkpoint_steps=2", "--set", "training.patience=99", "--epochs", "12")


def options(built: Path, out: Path) -> list[str]:
    return ["study", "table1", "--data", str(built), "--out", str(out), "--only", "two_tower,fit", *SMALL]


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 120
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, paths
        time.sleep(0.02)


@pytest.fixture(scope="module")
def killed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a study that was killed with everything that it began: one finished, one within its training."""
    out = tmp_path_factory.mktemp("killed") / "runs"
    command = [sys.executable, "-m", "prerank", *options(built, out), "--seeds", "2"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(out / "two_tower" / "seed-1" / "report.json", out / "fit" / "seed-1" / "checkpoint.json")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "fit" / "seed-1" / "report.json").exists()
    return out


@pytest.fixture(scope="module")
def ended(killed: Path, built: Path) -> tuple[Path, str]:
    """The same study begun again, to its end; and what it said."""
    first = (killed / "two_tower" / "seed-1" / "report.json").stat().st_mtime_ns
    files = ["--json", str(killed / "table1.json"), "--figure", str(killed / "table1.svg")]
    command = [sys.executable, "-m", "prerank", *options(built, killed), "--seeds", "2", "--jobs", "2", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (killed / "two_tower" / "seed-1" / "report.json").stat().st_mtime_ns == first
    return killed, done.stderr


def test_a_killed_study_goes_on_where_it_was(ended: tuple[Path, str]) -> None:
    out, said = ended
    assert "two_tower seed 1" not in said
    assert "resuming at" in (out / "fit" / "seed-1.log").read_text()
    assert "[4 of 4 runs]" in said


def test_json_holds_every_seed_and_the_test(ended: tuple[Path, str]) -> None:
    result = json.loads((ended[0] / "table1.json").read_text())
    assert list(result["rows"]) == ["two_tower", "fit"]
    row = result["rows"]["fit"]
    aucs = [row["seeds"][seed]["test"]["auc"] for seed in ("1", "2")]
    assert row["mean"]["auc"] == pytest.approx(sum(aucs) / 2)
    assert row["sd"]["auc"] == pytest.approx(abs(aucs[0] - aucs[1]) / 2**0.5)
    assert row["seeds"]["1"]["epochs"] == len(row["seeds"]["1"]["curves"]["valid_auc"]) == 12
    assert row["training"]["max_epochs"] == 12
    (auc, logloss) = result["tests"]
    assert (auc["metric"], auc["against"], logloss["metric"]) == ("auc", "two_tower", "logloss")
    assert auc["missing"] == ["dat", "cold", "int_tower", "rank_tower"]
    assert auc["difference"] == pytest.approx(row["mean"]["auc"] - result["rows"]["two_tower"]["mean"]["auc"])
    assert 0 <= auc["p"] <= 1
    assert auc["users_se"] > 0
    assert result["environment"]["threads"] == 1
    assert result["paper"] is None
    assert "two_tower" not in table(result).splitlines()[2]
    assert (ended[0] / "table1.svg").read_text().startswith("<?xml")


def test_only_and_seeds_add_to_what_is_there(ended: tuple[Path, str], built: Path, prerank: Prerank) -> None:
    code, out, err = prerank(*options(built, ended[0]), "--seeds", "3-3", "--only", "two_tower")
    assert code == 0, err
    assert err.count("begins") == 1
    assert [line.split("|")[2].strip() for line in out.splitlines()[3:5]] == ["3", "2"]


def test_what_has_finished_otherwise_is_refused(ended: tuple[Path, str], built: Path, prerank: Prerank) -> None:
    code, _, err = prerank(*options(built, ended[0]), "--epochs", "13", "--seeds", "1")
    assert code == 2
    assert "training.max_epochs=12, this study wants 13" in err


def test_a_run_is_trained_by_one_process_at_a_time(built: Path, tmp_path: Path, prerank: Prerank) -> None:
    """The lock stays with the training when the command that began it is killed."""
    plan = Plan(find_study("table1"), None, built, tmp_path / "runs")
    cell = plan.cell("fit", 1)
    lock = hold(cell.lock)
    assert lock is not None
    assert hold(cell.lock) is None
    training = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    os.close(lock)
    assert hold(cell.lock) is None
    code, _, err = prerank("study", "table1", "--data", built, "--out", plan.out, "--only", "fit", "--seeds", "1")
    assert code == 2
    assert "is being trained by another process" in err
    assert "no run of table1 has finished" in err
    training.communicate(b"\n")
    again = hold(cell.lock)
    assert again is not None
    os.close(again)


def test_a_terminated_study_ends_its_trainings(built: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prerank", *options(built, tmp_path / "runs"), "--epochs", "1000", "--seeds", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cell = Plan(find_study("table1"), None, built, tmp_path / "runs").cell("two_tower", 1)
    wait_for(cell.run / "checkpoint.json")
    assert hold(cell.lock) is None
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    lock = hold(cell.lock)
    assert lock is not None
    os.close(lock)


def test_a_failed_run_is_named_and_the_others_go_on(built: Path, tmp_path: Path, prerank: Prerank) -> None:
    mad = ("--set", "training.learning_rate=1e30", "--seeds", "1")
    code, _, err = prerank(*options(built, tmp_path / "runs"), *mad, "--only", "two_tower")
    assert code == 2
    assert "failed, see" in err
    assert "no run of table1 has finished" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tabel1", "--dataset", "ml-1m"], "did you mean 'table1'?"),
        (["table1", "--dataset", "ml-1n"], "did you mean 'ml-1m'?"),
        (["table1"], "--dataset or --data"),
        (["table1", "--dataset", "ml-1m", "--data", "nowhere"], "prerank data build ml-1m"),
        (["table1", "--data", "nowhere"], "nowhere"),
        (["table1", "--dataset", "ml-1m", "--data", "{built}"], "is not ml-1m fit"),
        (["table1", "--data", "{built}", "--only", "fitt"], "no row of table1"),
        (["table1", "--data", "{built}", "--seeds", "x"], "--seeds x"),
        (["table1", "--data", "{built}", "--set", "model.towr=[8]"], "did you mean 'tower'?"),
        (["table1", "--data", "{built}", "--tuned", "nowhere"], "no such file"),
        (["table1", "--data", "{built}", "--out", "nowhere", "--collect"], "no run of table1 has finished"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], expected: str, built: Path, prerank: Prerank) -> None:
    code, out, err = prerank("study", *(argument.format(built=built) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err


def result(*, differs: str | None = None) -> dict[str, Any]:
    """A small outcome, with numbers that are easy to follow."""

    def row(title: str, auc: float, logloss: float) -> dict[str, Any]:
        seed = {"test": {"auc": auc, "logloss": logloss}, "best_epoch": 3, "curves": {"valid_auc": [0.6, 0.7]}}
        mean = {"auc": auc, "logloss": logloss, "gauc": auc, "epoch_seconds": 60.0}
        training = {"max_epochs": 5, "patience": 3}
        shared = {"x": 4.0, "series": None, "seeds": {"1": seed, "2": seed}, "sd": dict.fromkeys(mean, 0.001)}
        return {"title": title, "mean": mean, "training": training, "relaimpr": 10.0, **shared}

    parts = {part: {"rows": 100} for part in ("train", "test")}
    test = {"row": "fit", "metric": "auc", "against": "two_tower", "difference": 0.02, "p": 1e-5, "missing": []}
    return {
        "study": "table1",
        "title": "A table",
        "data": "ml-1m",
        "base": "two_tower",
        "figure": {"kind": "dots", "metrics": ["auc"], "x": "heads"},
        "rows": {"two_tower": row("Two-Tower", 0.9, 0.4), "fit": row("FIT", 0.92, 0.38)},
        "popularity": {"auc": 0.8, "logloss": 0.5, "gauc": 0.8},
        "tests": [{**test, "users_se": 0.001}],
        "paper": {
            "source": "P",
            "column": "ML-1M",
            "differs": differs,
            "rows": {"fit": {"auc": 0.9225, "logloss": 0.3766}},
        },
        "dataset": {"facts": {"parts": parts}},
        "environment": {"processor": "CPU", "machine": "m", "threads": 1, "torch": "2"},
        "commands": ["prerank study table1"],
    }


def test_table_shows_the_papers_values_and_differences() -> None:
    lines = table(result()).splitlines()
    fit = next(line for line in lines if line.startswith("| FIT | 2"))
    assert "| 0.9200 ± 0.0010 | 0.9225 | -0.0025 | 0.3800 ± 0.0010 | 0.3766 | +0.0034 | +10.00 % |" in fit
    assert "| FIT | Two-Tower | AUC | +0.0200 | < 0.0001 | 0.0010 |" in lines
    assert len({line.count("|") for line in lines[: len(lines) - 8] if line.startswith("|")}) == 1
    assert lines[-1] == "    prerank study table1"


def test_table_of_other_data_than_the_papers_has_no_differences() -> None:
    text = table(result(differs="Sports in place of Electronics"))
    assert "| 0.9225 |" in text
    assert "-0.0025" not in text
    assert "Sports in place of Electronics" in text


@pytest.mark.parametrize("kind", ["dots", "lines", "curves"])
def test_every_figure_is_drawn(kind: str, tmp_path: Path) -> None:
    changed = result()
    changed["figure"]["kind"] = kind
    draw(changed, tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert "A table, ml-1m" in text
    assert {"dots": "test AUC", "lines": "heads", "curves": "validation AUC"}[kind] in text


def test_commands_repeat_the_study(built: Path, tmp_path: Path) -> None:
    plan = Plan(find_study("table1"), find_data("ml-1m"), built, tmp_path, ("training.patience=5",), 7)
    assert commands(plan, {"fit": [1, 2]}) == [
        "prerank data build ml-1m --from DIR --to data/ml-1m --preset fit",
        "prerank study table1 --dataset ml-1m --seeds 2 --only fit --epochs 7 --set training.patience=5 "
        "--json results/table1-ml-1m.json",
    ]
