"""docs/operations.md: what it calls is there and answers, its routines do what they say, its sizes add up."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tests.service.conftest import Running
from typer.testing import CliRunner

from prerank.cli.main import app
from prerank.publish.generation import locate, open_generation
from prerank.publish.precision import ON_DISK

pytestmark = pytest.mark.xdist_group("service")

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
EXAMPLE = "20261124T010203-0123abcd"


def block(name: str) -> str:
    (found,) = re.findall(rf"<!-- run: {name} -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_what_is_asked_for_answers(service: Running) -> None:
    paths = re.findall(r"^curl -s http://127\.0\.0\.1:8000(\S+)$", PAGE, re.MULTILINE)
    assert paths == ["/healthz/live", "/healthz/ready", "/v1/status", "/metrics"]
    for path in paths:
        assert service.call("GET", path).status == 200


def test_going_back_and_removing(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(published.parent)
    old, new = sorted(path.name for path in Path("published/generations").iterdir())
    names = {"current": locate(published).name}
    names["other"] = old if names["current"] == new else new
    listed, back, named = (line.split()[1:] for line in block("rollback").splitlines())
    for words, serves in (
        (listed, "current"),
        (back, "other"),
        ([*named[:-1], names["current"]], "current"),
        (back, "other"),
    ):
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0 and locate(published).name == names[serves]
    removal = block("removal").replace(EXAMPLE, names["current"])
    subprocess.run(["sh", "-ec", removal], check=True)
    assert [path.name for path in Path("published/generations").iterdir()] == [names["other"]]
    assert CliRunner().invoke(app, ["verify", "published"]).exit_code == 0


def test_sizes_add_up(master: Path) -> None:
    store = open_generation(locate(master), planned=False).store
    assert store.behaviours is not None and store.index is not None
    number = ON_DISK[store.precision].itemsize
    numbers = store.rows.values.shape[1] + store.behaviours.values.shape[1]
    least, most = (number * numbers + 8 + table + 1 for table in (8, 16))
    spare = 4 * 64 + number * store.behaviours.values.shape[1]  # the table's end, and the unknown item
    assert least * len(store) <= store.nbytes <= most * len(store) + spare


def test_series_and_settings_that_are_named_exist() -> None:
    serving = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"`(prerank_\w+|limits\.\w+|\w+_seconds|buffer_bytes|token_file|access_log)`", PAGE)):
        assert f"`{name}`" in serving, name
