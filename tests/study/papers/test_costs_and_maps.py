"""Studies of costs and maps of representations, on worlds small enough to know what must come out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prerank.data.build import build
from prerank.data.log import Dataset
from prerank.data.protocol import preset
from prerank.data.sources.synthetic import checkerboard
from prerank.errors import DataError
from prerank.study.experiment import run_experiment
from prerank.study.papers.cells import Plan
from prerank.study.papers.definition import find_data, find_study
from prerank.study.papers.efficiency import Effort, measure
from prerank.study.papers.figure import draw
from prerank.study.papers.maps import maps
from prerank.study.papers.report import heading, markdown
from prerank.training.config import RunConfig

Prerank = Callable[..., tuple[int, str, str]]
EFFORT = Effort(rounds=1, steps=2, items=300, repeats=3, budget=0.2)


def measured(study: str, rows: list[str], built: Path, out: Path) -> dict[str, Any]:
    plan = Plan(find_study(study), find_data("taobao"), built, out, ("training.batch_rows=256",))
    told: list[tuple[str, int, int]] = []
    result = measure(plan, rows, EFFORT, lambda *step: told.append(step))
    assert all(done < total for _, done, total in told)
    assert not out.exists()
    return json.loads(json.dumps(result))  # type: ignore[no-any-return]


def test_costs_of_models_beside_the_papers(built: Path, tmp_path: Path) -> None:
    result = measured("table2", ["two_tower", "fit", "dat"], built, tmp_path / "runs")
    rows = result["rows"]
    assert rows["two_tower"]["representation_bytes"] == 128 * 4
    assert rows["fit"]["representation_bytes"] == 128 * 4 + 1
    assert rows["dat"]["representation_bytes"] == 32 * 4
    assert all(row["epoch_seconds"] > 0 for row in rows.values())
    assert rows["two_tower"]["user_parameters"] < rows["two_tower"]["parameters"]
    lines = markdown(result).splitlines()
    dat = next(line for line in lines if line.startswith("| DAT"))
    assert "| 238 | 1.04 |" in dat
    assert "| 25.6 | 1.01 |" in dat
    assert "| 128 | 0.25 | 0.25 |" in dat
    draw(result, tmp_path / "bars.svg")
    assert "stored an item, bytes" in (tmp_path / "bars.svg").read_text()


@pytest.mark.parametrize(
    ("study", "rows", "shown"),
    [
        ("fig7-latency", ["fit_n4", "fit"], "meta queries"),
        ("inttower-fig5", ["two_tower_d32", "cold_d32"], "candidates"),
    ],
)
def test_costs_over_an_axis(study: str, rows: list[str], shown: str, built: Path, tmp_path: Path) -> None:
    result = measured(study, rows, built, tmp_path / "runs")
    assert all(row["epoch_seconds"] is None for row in result["rows"].values())
    assert "p50 of a request, ms" in markdown(result)
    draw(result, tmp_path / "figure.svg")
    assert shown in (tmp_path / "figure.svg").read_text()


def test_costs_have_no_runs(built: Path, prerank: Prerank) -> None:
    code, out, err = prerank("study", "table2", "--data", built, "--seeds", "3")
    assert (code, out) == (2, "")
    assert "measures costs and has no runs" in err


@pytest.fixture(scope="module")
def towns() -> Dataset:
    """Long timelines, so that users have enough validation rows for a map."""
    return build(checkerboard(users=40, items=240, events_per_user=58, groups=4, seed=5), preset("din"))


@pytest.fixture(scope="module")
def runs(towns: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("maps")
    towns.save(place / "data")
    small = {"embedding": 4, "embedding_std": 0.1, "tower": [16, 8]}
    models = {"fit": {"meta_queries": 4}, "two_tower": {}, "int_tower": {"heads": 2, "head_width": 4}}
    training = {"max_epochs": 12, "batch_rows": 256, "learning_rate": 0.01, "patience": 12}
    for name, changes in models.items():
        model = {"name": name, **small, **changes}
        values = {"data": place / "data", "model": model, "training": training}
        run_experiment(RunConfig.model_validate(values), place / name)
    return {name: place / name for name in models}


def drawn(kind: str, made: dict[str, Any], file: Path) -> str:
    rows = {name: {"title": name} for name in made}
    result = {"figure": {"kind": kind, "metrics": []}, "title": "A map", "data": "towns", "rows": rows, "maps": made}
    draw(json.loads(json.dumps(result)), file)
    return file.read_text()


def test_a_heading_names_what_was_changed() -> None:
    assert heading({"title": "FIT", "data": "towns"}) == "FIT, towns"
    assert heading({"title": "FIT", "data": "towns", "changes": ["a=1", "tuned"]}) == "FIT, towns, a=1, tuned"


def test_items_of_a_query_lie_together(towns: Dataset, runs: dict[str, Path], tmp_path: Path) -> None:
    made = maps("item_map", {"fit": runs["fit"]}, towns)
    assert len(made["fit"]["index"].split()) == 240
    assert len(made["fit"]["items"].split()) == 480
    assert made["fit"]["agreement"] > made["fit"]["chance"]
    assert "nearest neighbour of the same query" in drawn("item_map", made, tmp_path / "items.svg")


def test_trained_users_lie_nearer_to_items_of_their_group(
    towns: Dataset, runs: dict[str, Path], tmp_path: Path
) -> None:
    """Histories tell the group, and no negative shares it but by one of six."""
    pair = {name: runs[name] for name in ("two_tower", "int_tower")}
    made = maps("user_map", pair, towns)
    for found in made.values():
        labels = found["label"].split()
        assert {label: labels.count(label) for label in labels} == {"-1": 6, "1": 60, "0": 60}
        assert len(found["places"].split()) == 2 * 126
    assert made["two_tower"]["separation"] > 0.9
    assert "AUC by cosine" in drawn("user_map", made, tmp_path / "users.svg")


def test_users_of_a_map_have_both_labels(towns: Dataset, runs: dict[str, Path]) -> None:
    """Where ratings are labels, some like all that they see: they have no AUC, and a map does not show them."""
    part = towns.parts["valid"]
    labels = np.where((part.users % 3 != 0)[:, None], 1, np.asarray(part.labels))
    some = replace(towns, parts={**towns.parts, "valid": replace(part, labels=labels)})
    made = maps("user_map", {"two_tower": runs["two_tower"]}, some)["two_tower"]
    assert made["label"].split().count("0") == 60
    assert math.isfinite(made["separation"])


def test_maps_need_meta_queries_and_held_out_rows(runs: dict[str, Path], towns: Dataset, world: Dataset) -> None:
    assert maps("dots", runs, towns) == {}
    with pytest.raises(DataError, match="without meta queries"):
        maps("item_map", {"two_tower": runs["two_tower"]}, towns)
    with pytest.raises(DataError, match="validation rows"):
        maps("user_map", {"two_tower": runs["two_tower"]}, world)
