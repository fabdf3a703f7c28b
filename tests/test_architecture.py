"""House rules that a program can check: the public surface, constructors, file sizes, pickle, start-up time."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import prerank
from prerank.models.registry import MODELS

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "prerank").rglob("*.py"))


def definitions(path: Path) -> Iterator[tuple[ast.AST, bool]]:
    """Every public class and function of a file, with whether it has a docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node, ast.get_docstring(node) is not None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_files_are_short_and_explained(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text)), "the module has no docstring"
    missing = [getattr(node, "name", "") for node, explained in definitions(path) if not explained]
    assert not missing


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_nothing_reads_or_writes_pickles(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not imported & {"pickle", "cloudpickle", "joblib", "dill"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
            owner = node.func.value
            assert not (isinstance(owner, ast.Name) and owner.id == "torch"), "torch.load reads pickles"
    assert "allow_pickle" not in names


@pytest.mark.parametrize("name", MODELS)
def test_models_take_inputs_and_config_and_nothing_else(name: str) -> None:
    parameters = inspect.signature(MODELS[name].model.__init__).parameters
    assert list(parameters) == ["self", "inputs", "config"]


def test_constructors_have_no_keyword_dictionaries() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                assert node.args.kwarg is None, f"{path.name}:{node.lineno}"


def test_public_surface_is_complete_and_sorted() -> None:
    assert list(prerank.__all__) == sorted(prerank.__all__)
    for name in prerank.__all__:
        assert getattr(prerank, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = prerank.Nothing


def test_import_is_fast() -> None:
    """Our share of the processor time of an import, whatever else the machine does: libraries first, then prerank."""
    program = (
        "import sys, time, torch, polars, pyarrow, pydantic; libraries = time.process_time(); "
        "import prerank; prerank.PreRanker; print(time.process_time() / libraries); "
        "assert not {'matplotlib', 'sklearn', 'pytest'} & set(sys.modules)"
    )
    ratios = [
        float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    assert min(ratios) < 1.4
