"""Wrong configurations are refused in one line that names the key and the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, ValidationError

from prerank.config import Strict, override, parse, read_yaml
from prerank.errors import ConfigError
from prerank.models.registry import MODELS
from prerank.training.config import read_run


class Layer(Strict):
    width: int = Field(default=4, ge=1)


class Tower(Strict):
    name: str
    layers: tuple[Layer, ...] = ()
    optional: Layer | None = None
    learning_rate: float = 0.1


def refused(values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(Tower, values, "tower.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a", "layer": []}, "tower.yaml: layer: unknown key; did you mean 'layers'?"),
        (
            {"name": "a", "zzz": 1},
            "tower.yaml: zzz: unknown key; known keys: layers, learning_rate, name, optional",
        ),
        ({"name": "a", "layers": [{}, {"widht": 3}]}, "tower.yaml: layers.1.widht: unknown key; did you mean 'width'?"),
        ({"name": "a", "optional": {"with": 3}}, "tower.yaml: optional.with: unknown key; did you mean 'width'?"),
        ({}, "tower.yaml: name: is required"),
        (
            {"name": "a", "layers": [{"width": 0}]},
            "tower.yaml: layers.0.width: input should be greater than or equal to 1 (got 0)",
        ),
        (
            {"name": "a", "learning_rate": "fast"},
            "learning_rate: input should be a valid number, unable to parse string as a number (got 'fast')",
        ),
        ({"name": None}, "tower.yaml: name: input should be a valid string (got None)"),
        (
            {"name": "a", "a": 1, "b": 2, "c": 3},
            "known keys: layers, learning_rate, name, optional (and 2 more problems)",
        ),
        ({1: 2, "name": "a"}, "tower.yaml: 1: keys should be strings"),
    ],
)
def test_a_wrong_key_or_value_is_named(values: dict[Any, Any], message: str) -> None:
    assert message in refused(values)


def test_configurations_do_not_change() -> None:
    tower = parse(Tower, {"name": "a"}, "here")
    with pytest.raises(ValidationError, match="frozen"):
        tower.name = "b"  # type: ignore[misc]


def test_numbers_as_yaml_writes_them() -> None:
    """YAML 1.1 reads 1e-3 as text."""
    assert parse(Tower, override({"name": "a"}, ["learning_rate=1e-3"]), "here").learning_rate == 0.001


def test_changes_reach_nested_keys_and_leave_the_original_alone() -> None:
    values = {"model": {"name": "fit", "tower": [3]}, "seed": 1}
    changed = override(values, ["model.tower=[300, 128]", "seed=2", "training.amp=true", "model.name=a=b"])
    assert changed == {"model": {"name": "a=b", "tower": [300, 128]}, "seed": 2, "training": {"amp": True}}
    assert values == {"model": {"name": "fit", "tower": [3]}, "seed": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed", "--set seed: expected key=value, for example training.seed=2"),
        ("=3", "--set =3: expected key=value"),
        ("seed.value=3", "--set seed.value=3: seed is a single value and has no keys"),
        ("seed=[1", r"--set seed=[1: the value is not valid YAML"),
    ],
)
def test_a_wrong_change_is_named(change: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override({"seed": 1}, [change])
    assert str(caught.value).startswith(message)


def test_reading_yaml(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("a: {b: [1, x]}\n", encoding="utf-8")
    assert read_yaml(path) == {"a": {"b": [1, "x"]}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: [1", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"- 1\n- 2\n", "the top level must be a mapping"),
        (b"", "the top level must be a mapping"),
        (b"just text", "the top level must be a mapping"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / "file" / "run.yaml"):
        with pytest.raises(ConfigError) as caught:
            read_yaml(path)
        assert str(caught.value).startswith(f"{path}: ")


RUN = """\
data: somewhere
model: {name: fit, tower: [16, 8]}
training: {batch_rows: 64}
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.bath_rows=3", "run.yaml: training.bath_rows: unknown key; did you mean 'batch_rows'?"),
        ("model.meta_query=3", "run.yaml: model: meta_query: unknown key; did you mean 'meta_queries'?"),
        ("model.name=fitt", "run.yaml: model.name: 'fitt' is not a model; models: " + ", ".join(MODELS)),
        ("training.patience=0", "run.yaml: training.patience: input should be greater than or equal to 1 (got 0)"),
        ("seed=one", "run.yaml: seed: input should be a valid integer"),
        ("model=3", "run.yaml: model: input should be a valid dictionary (got 3)"),
        ("data=null", "run.yaml: data: input is not a valid path"),
    ],
)
def test_wrong_runs_are_refused_before_any_work(change: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_run(tmp_path / "run.yaml", [change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
