"""The benchmark of a large log, on a small one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from prerank.bench.large_log import _write_log, large_log
from prerank.cli.main import app
from prerank.data.log import Dataset
from prerank.data.sources.tables import read_tables

STAGES = ["read", "build", "save", "load", "encode", "epoch"]


def test_every_event_becomes_a_row(tmp_path: Path) -> None:
    result = large_log(20_000, 500, 300, 3, tmp_path)
    dataset = Dataset.load(tmp_path / "dataset")
    active = np.count_nonzero(np.diff(dataset.timelines.offsets))
    assert len(dataset.timelines.entries) == 20_000
    assert sum(part["requests"] for part in result["facts"]["parts"].values()) == 20_000 - active
    assert result["epoch_rows"] == result["facts"]["parts"]["train"]["rows"] == 2 * len(dataset.parts["train"])
    assert list(result["stages"]) == STAGES
    peaks = [result["stages"][name]["peak_gib"] for name in STAGES]
    assert peaks == sorted(peaks)
    assert 0 < peaks[0] <= result["peak_gib"] == peaks[-1] < 2


def test_the_seed_makes_the_log(tmp_path: Path) -> None:
    logs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        _write_log(1000, 50, 40, seed, tmp_path / name)
        logs.append(read_tables(tmp_path / name / "schema.yaml", tmp_path / name).events)
    assert logs[0].equals(logs[1])
    assert not logs[0].equals(logs[2])


def test_activity_and_popularity_are_uneven(tmp_path: Path) -> None:
    _write_log(20_000, 500, 300, 0, tmp_path)
    events = read_tables(tmp_path / "schema.yaml", tmp_path).events
    for name, size in (("user", 500), ("item", 300)):
        counts = np.sort(np.bincount(events[name], minlength=size))
        assert counts[-size // 10 :].sum() > 0.25 * 20_000


def test_command_prints_and_writes(tmp_path: Path) -> None:
    path = tmp_path / "out" / "log.json"
    arguments = ["bench", "log", "--events", "2000", "--users", "100", "--items", "150", "--json", str(path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    written = json.loads(path.read_text("utf-8"))
    assert (written["events"], written["users"], written["items"]) == (2000, 100, 150)
    assert str(tmp_path) not in path.read_text("utf-8")
    for name in STAGES:
        assert name in result.output


def test_help_shows_an_example() -> None:
    result = CliRunner().invoke(app, ["bench", "log", "--help"])
    assert "Example: prerank bench log --events 20000000 --json results/large_log.json" in " ".join(
        result.output.split()
    )


@pytest.mark.parametrize("arguments", [["--events", "0"], ["--users", "1"], ["--items", "many"]])
def test_sizes_that_make_no_log_are_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["bench", "log", *arguments]).exit_code == 2
