"""What runs are called where several stand side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from prerank.errors import DataError
from prerank.study.experiment import by_name


def test_a_run_is_called_by_its_directory_and_a_study_s_run_by_its_row(tmp_path: Path) -> None:
    runs = [tmp_path / "fit" / "seed-1", tmp_path / "two_tower" / "seed-12", tmp_path / "din"]
    assert by_name(runs) == dict(zip(("fit", "two_tower", "din"), runs, strict=True))


def test_seeds_of_one_row_are_told_apart(tmp_path: Path) -> None:
    runs = [tmp_path / "fit" / "seed-1", tmp_path / "fit" / "seed-2", tmp_path / "dat" / "seed-2"]
    assert list(by_name(runs)) == ["fit seed-1", "fit seed-2", "dat"]


def test_the_same_run_twice_is_one(tmp_path: Path) -> None:
    run = tmp_path / "fit" / "seed-1"
    assert by_name([run, tmp_path / "fit" / ".." / "fit" / "seed-1"]) == {"fit": run}


@pytest.mark.parametrize("other", ["elsewhere/fit", "fit/seed-1"])
def test_two_runs_of_one_name_are_refused_by_name(tmp_path: Path, other: str) -> None:
    with pytest.raises(DataError, match="is called fit, too"):
        by_name([tmp_path / "fit", tmp_path / other])
