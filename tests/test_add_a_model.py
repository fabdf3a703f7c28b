"""docs/add-a-model.md, done as it says: a model is one file and one line, from ``fit`` to ``rank``."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prerank.data.sources.synthetic import checkerboard, write_tables

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add-a-model.md").read_text(encoding="utf-8")


def fenced(language: str) -> list[str]:
    """The blocks of one language, in the order of the page."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the page's file and its line of the registry."""
    source = tmp_path_factory.mktemp("copy") / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    module, line = fenced("python")
    models = source / "prerank" / "models"
    (models / "multi_interest.py").write_text(module, encoding="utf-8")
    registry = (models / "registry.py").read_text(encoding="utf-8")
    imported = "from prerank.models.multi_interest import MultiInterest, MultiInterestConfig\n"
    registry = registry.replace("from prerank.schema", f"{imported}from prerank.schema", 1)
    head, opening, rest = registry.partition("MODELS: dict[str, Entry] = {\n")
    assert opening
    (models / "registry.py").write_text(head + opening + line + rest, encoding="utf-8")
    return source


def in_copy(package: Path, where: Path, *command: str) -> str:
    """Run a command with the copy of the package, and return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_file_is_short_and_clean(package: Path) -> None:
    module = package / "prerank" / "models" / "multi_interest.py"
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 100
    ruff = [sys.executable, "-m", "ruff"]
    in_copy(package, ROOT, *ruff, "check", "--config", str(ROOT / "pyproject.toml"), str(module))
    in_copy(package, ROOT, *ruff, "format", "--check", "--config", str(ROOT / "pyproject.toml"), str(module))


def test_it_goes_from_fit_to_rank(package: Path, tmp_path: Path) -> None:
    """The page's commands, on a world of which the right answer is known instead of MovieLens."""
    prerank = [sys.executable, "-m", "prerank"]
    write_tables(checkerboard(users=120, items=80, events_per_user=12, seed=2), tmp_path / "tables")
    in_copy(
        package, tmp_path, *prerank, "data", "build", "tables/schema.yaml", "--from", "tables", "--to", "data/ml-100k"
    )
    (settings,) = fenced("yaml")
    (tmp_path / "multi_interest.yaml").write_text(settings, encoding="utf-8")
    (tmp_path / "ids.txt").write_text("item-0001\nitem-0002\nitem-0003\n", encoding="utf-8")
    lines = [line for block in fenced("sh") for line in block.splitlines()]
    small = ["--set", "training.batch_rows=64", "--set", "training.max_epochs=12", "--set", "model.tower=[32, 16]"]
    for line in lines[1:]:
        words = shlex.split(line)[1:]
        words = ["['item-0004']" if word == "[50, 181]" else word for word in words]
        words = [word.replace("'", '"') for word in words]
        in_copy(package, tmp_path, *prerank, *words, *(small if words[0] == "fit" else []))
    report = json.loads((tmp_path / "runs" / "multi_interest" / "report.json").read_text(encoding="utf-8"))
    assert report["model"]["name"] == "multi_interest"
    assert report["test"]["auc"] > 0.8


def test_the_contract_test_takes_it_up(package: Path) -> None:
    contract = str(ROOT / "tests" / "test_contract.py")
    printed = in_copy(
        package, ROOT, sys.executable, "-m", "pytest", contract, "-k", "multi_interest", "-p", "no:cacheprovider"
    )
    assert re.search(r"[1-9]\d* passed|\.\.\.", printed)
