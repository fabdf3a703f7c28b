"""The tables of docs/interaction-units.md, against the code."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.test_docs_models import defaults, rows

from prerank.models.fit import FIT
from prerank.models.rankers.dien import DIENConfig
from prerank.models.rankers.din import DINConfig
from prerank.models.registry import create, model_config
from prerank.study.model_table import MOVIELENS_1M

PAGE = (Path(__file__).parents[1] / "docs" / "interaction-units.md").read_text(encoding="utf-8")
UNITS = {name: [cell.replace(",", "") for cell in row] for name, *row in rows(PAGE.split("\n## ", maxsplit=1)[0])}
KEYS = {name: row for name, *row in rows(PAGE.split("\n## As rankers\n")[1])}


@pytest.mark.parametrize("place", range(4))
def test_sizes(place: int) -> None:
    name = UNITS[""][place].strip("`")
    model = create(model_config({"name": "fit", "interaction": name}, "docs"), MOVIELENS_1M)
    assert isinstance(model, FIT)
    assert model.unit.width == int(UNITS["W, at ML-1M's fields"][place])
    assert sum(parameter.numel() for parameter in model.unit.parameters()) == int(UNITS["parameters"][place])


@pytest.mark.parametrize(("place", "config"), [(0, DINConfig), (1, DIENConfig)])
def test_keys_of_the_rankers(place: int, config: type[DINConfig | DIENConfig]) -> None:
    written = {key.strip("`"): row[place] for key, row in KEYS.items() if key.startswith("`") and row[place] != "none"}
    everywhere = {"model.name", "model.embedding", "model.embedding_std"}
    assert written == {key: value for key, value in defaults(config, "model.").items() if key not in everywhere}
