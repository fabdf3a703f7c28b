"""What README and docs say is so: code runs, commands exist, tables come from the committed JSON."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from docs.tables import filled

from prerank.cli.main import app
from prerank.study.experiment import resolved
from prerank.training.config import read_run

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").glob("*.md")])
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[str]:
    """Every prerank command line of the pages, continuation lines joined, comments dropped."""
    found = []
    for page in PAGES:
        for block in blocks(page, "(?:sh|bash|console)"):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.removeprefix("$ ").strip()
                if words.startswith("prerank "):
                    found.append(words)
    return found


def test_readme_example_runs(tmp_path: Path) -> None:
    (example,) = blocks(ROOT / "README.md", "python")
    assert len(example.splitlines()) <= 26
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    aucs, answer = done.stdout.splitlines()
    fit, popularity = map(float, aucs.split())
    assert fit > popularity + 0.1
    assert answer.startswith("['item-000")


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_pages_exist(line: str) -> None:
    command: Any = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    while hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"{line}: no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    used = {word.split("=")[0] for word in words if re.fullmatch(r"-[a-z]|--[a-z][a-z-]*(=.*)?", word)}
    assert used <= known | {"--help"}, f"{line}: unknown {used - known}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.name))
def test_tables_are_those_of_results_and_registry(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, f"{page.name}: run make docs"


def test_tables_are_found() -> None:
    """The markers are read: a page with a wrong table would be written anew."""
    marked = "<!-- table: results/ml-1m.json -->\nwrong\n<!-- end -->"
    assert "two_tower" in filled(marked)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_committed_configs_are_valid(path: Path) -> None:
    name = resolved(read_run(path))["model"]["name"]
    assert path.stem == name or path.stem.startswith(f"{name}_")  # a variant of the model


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.name))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
