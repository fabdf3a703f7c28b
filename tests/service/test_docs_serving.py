"""docs/serving.md: its requests are answered, its tables are complete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from tests.service.conftest import Running

from prerank.service.settings import ServiceConfig

pytestmark = pytest.mark.xdist_group("service")

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"`POST (\S+)`\n\n```json\n(.*?)```", PAGE, re.DOTALL)


def rows(name: str) -> list[list[str]]:
    """The cells of a table between its marks, without the two lines of its head."""
    (table,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


@pytest.mark.parametrize(("path", "body"), EXAMPLES, ids=[path for path, _ in EXAMPLES])
def test_examples_are_answered(service: Running, path: str, body: str) -> None:
    answer = service.call("POST", path, body.encode())
    assert answer.status == 200, answer.raw
    if path == "/v1/rank":
        (shown,) = re.findall(r"The answer:\n\n```json\n(.*?)```", PAGE, re.DOTALL)
        shown = json.loads(shown)
        assert list(answer.json) == list(shown)
        for name in ("unknown", "duplicates", "unknown_history", "coverage"):
            assert answer.json[name] == shown[name]
        assert len(answer.json["ids"]) == len(shown["ids"])
    if path == "/v1/rank:batch":
        assert list(answer.json) == ["answers", "generation"] and len(answer.json["answers"]) == 2


def test_there_are_examples_of_all_ways() -> None:
    assert [path for path, _ in EXAMPLES] == ["/v1/rank", "/v1/rank:batch", "/v2/models/prerank/infer"]


def settings(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            found |= settings(type(field.default), f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = (field.default, field.description or "")
    return found


def test_every_setting_is_told_with_its_default() -> None:
    told = {row[0].strip("`"): (row[1], row[2]) for row in rows("settings")}
    known = settings(ServiceConfig)
    assert list(told) == list(known)
    for name, (default, what) in known.items():
        shown, explained = told[name]
        assert (shown == "none") if default is None else (yaml.safe_load(shown) == default), name
        assert explained == what, name


def test_every_series_is_told(service: Running) -> None:
    text = service.call("GET", "/metrics").raw.decode()
    known = {
        name for name in re.findall(r"^# TYPE (prerank_\S+) ", text, re.MULTILINE) if not name.endswith("_created")
    }
    assert {row[0].strip("`") for row in rows("metrics")} == known
