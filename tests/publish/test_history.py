"""Generations by age, and going back to one of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.service.conftest import publish
from typer.testing import CliRunner

from prerank.cli.main import app
from prerank.data.log import Dataset
from prerank.errors import ArtefactError
from prerank.publish import files
from prerank.publish.generation import locate
from prerank.publish.history import history, previous, roll_back


@pytest.fixture(scope="module")
def three(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Three generations, the newest first; they may be of one second."""
    to = tmp_path_factory.mktemp("history") / "published"
    names = [publish(world, to, seed).name for seed in (1, 2, 3)]
    return to, names[::-1]


@pytest.fixture
def copy(three: tuple[Path, list[str]], tmp_path: Path) -> tuple[Path, list[str]]:
    to, names = three
    return Path(shutil.copytree(to, tmp_path / "published")), names


def test_newest_first(three: tuple[Path, list[str]]) -> None:
    to, names = three
    found = history(to)
    assert [one.name for one in found] == names
    assert [one.current for one in found] == [True, False, False]
    assert {one.model for one in found} == {"fit"}
    assert previous(found) == names[1] and previous(found, {names[1]: ""}) == names[2]


def test_back_and_back_again_and_forward(copy: tuple[Path, list[str]]) -> None:
    to, names = copy
    assert roll_back(to) == names[1] and locate(to).name == names[1]
    assert roll_back(to) == names[2] and locate(to).name == names[2]
    with pytest.raises(ArtefactError, match="no generation before"):
        roll_back(to)
    assert roll_back(to, names[0]) == names[0] and locate(to).name == names[0]
    assert roll_back(to, without={names[1]: "known to be bad"}) == names[2]


@pytest.mark.parametrize("name", ["20200101T000000-00000000", "../../etc", "", ".part", "a/b"])
def test_only_what_is_there(three: tuple[Path, list[str]], name: str) -> None:
    with pytest.raises(ArtefactError, match=f"has no generation {name}; list them"):
        roll_back(three[0], name)
    assert locate(three[0]).name == three[1][0]


def test_a_damaged_one_is_not_gone_back_to(copy: tuple[Path, list[str]]) -> None:
    to, names = copy
    rows = to / "generations" / names[1] / "store" / "rows.npy"
    content = bytearray(rows.read_bytes())
    content[-1] ^= 1
    rows.write_bytes(content)
    (to / "generations" / names[2] / "manifest.json").write_text("{}")
    for name, file in ((names[1], "rows.npy"), (names[2], "manifest.json")):
        with pytest.raises(ArtefactError, match=f"{file}: is damaged"):
            roll_back(to, name)
    assert locate(to).name == names[0]
    assert {one.name: one.model for one in history(to)} == dict(zip(names, ("fit", "fit", None), strict=True))


def test_a_damaged_current_is_mended_by_a_name(copy: tuple[Path, list[str]]) -> None:
    to, names = copy
    (to / "CURRENT").write_text("nonsense")
    with pytest.raises(ArtefactError, match="name one"):
        roll_back(to)
    assert roll_back(to, names[0]) == names[0] and locate(to).name == names[0]


def test_a_disk_that_is_full_changes_nothing(copy: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    to, names = copy

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(ArtefactError, match="could not be written: No space left on device"):
        roll_back(to, names[1])
    assert locate(to).name == names[0]


def test_by_hand(copy: tuple[Path, list[str]]) -> None:
    to, names = copy
    runner = CliRunner()
    file = to.parent / "list.json"
    shown = runner.invoke(app, ["generations", str(to), "--json", str(file)])
    assert shown.exit_code == 0 and shown.output.index(names[0]) < shown.output.index(names[1])
    assert [one["state"] for one in json.loads(file.read_text())] == ["current", "previous", ""]
    went = runner.invoke(app, ["rollback", str(to)])
    assert went.exit_code == 0 and went.output.strip() == f"{names[1]} is the current generation at {to}"
    assert runner.invoke(app, ["rollback", str(to), names[0]]).exit_code == 0 and locate(to).name == names[0]


def test_not_a_published_directory(tmp_path: Path, three: tuple[Path, list[str]]) -> None:
    for place in (tmp_path / "nothing", tmp_path, locate(three[0])):
        with pytest.raises(ArtefactError, match="is not a directory of published generations"):
            history(place)
