"""Seeds from another machine join a study by their JSON, as if their runs were here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("elsewhere")  # one process, so that the study is run once
Prerank = Callable[..., tuple[int, str, str]]
ROWS = "two_tower,fit"
SMALL = ("--set", "model.tower=[8, 4]", "--set", "model.embedding=4", "--epochs", "2")


@pytest.fixture(scope="module")
def whole(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two rows and two seeds, with its JSON."""
    out = tmp_path_factory.mktemp("whole")
    options = ["--data", built, "--out", out, *SMALL, "--only", ROWS, "--seeds", "2", "--jobs", "2"]
    command = [sys.executable, "-m", "prerank", "study", "table1", *options, "--json", out / "result.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def _study(prerank: Prerank, built: Path, out: Path, *options: str | Path) -> dict[str, Any]:
    file = out / "result.json"
    code, _, err = prerank("study", "table1", "--data", built, "--out", out, *SMALL, *options, "--json", file)
    assert code == 0, err
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def _part(whole: Path, to: Path, *runs: str) -> Path:
    """Another machine, which has trained these runs only."""
    for run in runs:
        shutil.copytree(whole / run, to / run)
    return to


def test_two_machines_give_what_one_gives(whole: Path, built: Path, tmp_path: Path, prerank: Prerank) -> None:
    first = _part(whole, tmp_path / "first", "two_tower/seed-1", "fit/seed-1", "two_tower/seed-2")
    second = _part(whole, tmp_path / "second", "fit/seed-2")
    _study(prerank, built, first, "--collect")
    joined = _study(prerank, built, second, "--collect", "--add", first / "result.json")
    expected = json.loads((whole / "result.json").read_text())
    assert {name: list(row["seeds"]) for name, row in joined["rows"].items()} == {
        "two_tower": ["1", "2"],
        "fit": ["1", "2"],
    }
    assert joined["rows"] == expected["rows"]
    for found, wanted in zip(joined["tests"], expected["tests"], strict=True):
        assert {**found, "users_se": 0} == {**wanted, "users_se": 0}
    earlier = json.loads((first / "result.json").read_text())["tests"]
    assert joined["tests"][0]["users_se"] == earlier[0]["users_se"] > 0  # Two-Tower's runs are not on the second
    assert joined["commands"] == expected["commands"]


def test_a_result_is_whole_without_its_runs(whole: Path, built: Path, tmp_path: Path, prerank: Prerank) -> None:
    alone = _study(prerank, built, tmp_path, "--collect", "--add", whole / "result.json")
    assert alone == json.loads((whole / "result.json").read_text())


def test_what_a_file_has_is_not_trained(whole: Path, built: Path, tmp_path: Path, prerank: Prerank) -> None:
    add = ("--add", whole / "result.json")
    joined = _study(prerank, built, tmp_path, "--only", "two_tower", "--seeds", "3", *add)
    assert list(joined["rows"]["two_tower"]["seeds"]) == ["1", "2", "3"]
    assert list(joined["rows"]["fit"]["seeds"]) == ["1", "2"]
    assert sorted(path.name for path in tmp_path.glob("two_tower/seed-*/")) == ["seed-3"]


def test_studies_share_rows(whole: Path, built: Path, tmp_path: Path, prerank: Prerank) -> None:
    file = tmp_path / "fig7.json"
    options = ["--data", built, "--out", tmp_path, *SMALL, "--collect", "--add", whole / "result.json"]
    code, _, err = prerank("study", "fig7", *options, "--json", file)
    assert code == 0, err
    (row,) = json.loads(file.read_text())["rows"].values()
    expected = json.loads((whole / "result.json").read_text())["rows"]["fit"]
    assert (row["title"], row["seeds"]) == ("N = 64", expected["seeds"])


def test_a_map_needs_a_run(whole: Path, built: Path, tmp_path: Path, prerank: Prerank) -> None:
    options = ["--data", built, "--out", tmp_path, *SMALL, "--collect", "--add", whole / "result.json"]
    code, out, err = prerank("study", "fig6", *options, "--figure", tmp_path / "fig6.svg")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "fig6: its map needs a run in" in err


def test_runs_here_count_before_those_of_a_file(whole: Path, built: Path, tmp_path: Path, prerank: Prerank) -> None:
    changed = json.loads((whole / "result.json").read_text())
    for row in changed["rows"].values():
        row["seeds"]["1"]["test"]["auc"] = 0.25
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    here = _part(whole, tmp_path / "here", "fit/seed-1")
    joined = _study(prerank, built, here, "--collect", "--add", tmp_path / "changed.json")
    aucs = {name: row["seeds"]["1"]["test"]["auc"] for name, row in joined["rows"].items()}
    assert aucs["two_tower"] == 0.25
    assert aucs["fit"] == json.loads((whole / "result.json").read_text())["rows"]["fit"]["seeds"]["1"]["test"]["auc"]


def test_two_machines_are_both_named(whole: Path, built: Path, tmp_path: Path, prerank: Prerank) -> None:
    changed = json.loads((whole / "result.json").read_text())
    changed["environment"]["processor"] = "Another"
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    options = ["--data", built, "--out", whole, *SMALL, "--collect", "--add", tmp_path / "changed.json"]
    code, out, _ = prerank("study", "table1", *options)
    own = json.loads((whole / "result.json").read_text())["environment"]
    assert code == 0
    assert f"{own['processor'] or own['machine']}, PyTorch {own['torch']} and Another, PyTorch" in out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda result: result.clear(), "is no result of prerank study"),
        (lambda result: result["rows"]["fit"].pop("training"), "is no result of prerank study with trained rows"),
        (lambda result: result.update(rows={"mine": result["rows"]["fit"]}), "has no row of table1"),
        (lambda result: result["dataset"].update(name="other"), "is of another data set or protocol"),
        (
            lambda result: result["rows"]["fit"]["training"].update(max_epochs=3),
            "fit was run with training.max_epochs=3, this study wants 2",
        ),
        (lambda result: result["rows"]["fit"]["model"].update(meta_queries=8), "model.meta_queries=8"),
        (lambda result: result["rows"]["fit"]["model"].update(heads=8), "heads"),
    ],
)
def test_what_does_not_belong_is_refused(
    change: Callable[[dict[str, Any]], None],
    expected: str,
    whole: Path,
    built: Path,
    tmp_path: Path,
    prerank: Prerank,
) -> None:
    changed = json.loads((whole / "result.json").read_text())
    change(changed)
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(changed))
    code, out, err = prerank("study", "table1", "--data", built, "--out", whole, *SMALL, "--collect", "--add", file)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert expected in err


def test_a_file_that_is_not_there(whole: Path, built: Path, prerank: Prerank) -> None:
    code, _, err = prerank(
        "study", "table1", "--data", built, "--out", whole, *SMALL, "--collect", "--add", "gone.json"
    )
    assert (code, err) == (2, "error: gone.json: no such file\n")
