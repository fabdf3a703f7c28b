"""Requests of a log with stages: by hand, as a property, through files, and what the hybrid objective makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prerank.data.build import build
from prerank.data.log import Dataset, RawLog
from prerank.data.protocol import Protocol, preset
from prerank.data.sources.synthetic import write_tables
from prerank.data.sources.tables import read_tables
from prerank.errors import ConfigError, DataError
from prerank.schema import Field, Schema
from prerank.study.experiment import run_experiment
from prerank.training.config import RunConfig

SCHEMA = Schema(
    user_id="user_id",
    item_id="item_id",
    user=(Field(name="user_id"),),
    item=(Field(name="item_id"),),
    history=("item_id",),
)
# (user, item, time, stage): two requests of user 1, one of user 2; "r…" were recalled, "s…" shown, "c…" clicked.
EVENTS = [
    (1, "r1", 10, 0),
    (1, "r2", 10, 0),
    (1, "r3", 10, 0),
    (1, "s1", 10, 4),
    (1, "c1", 10, 9),
    (1, "c2", 20, 9),
    (1, "s2", 20, 4),
    (2, "c3", 10, 9),
    (2, "c4", 10, 9),
    (2, "r4", 10, 0),
]
STAGES = {"labels": "stages", "ties": "strict", "test": "rows", "test_size": 0.25, "validation": 0.34}


def log(events: list[tuple[int, str, int, int]] = EVENTS) -> RawLog:
    table = pl.DataFrame(events, schema=["user", "item", "time", "stage"], orient="row")
    names = [*(f"{kind}{number}" for kind in "rsc" for number in range(1, 5)), *(f"x{n}" for n in range(20))]
    return RawLog(
        "by hand", SCHEMA, pl.DataFrame({"user_id": [1, 2]}), pl.DataFrame({"item_id": sorted(set(names))}), table
    )


def requests(dataset: Dataset) -> dict[str, list[tuple[str, int]]]:
    """The candidates of each positive with their grades."""
    names = dataset.items["item_id"]
    found = {}
    for rows in dataset.parts.values():
        assert rows.grades is not None
        for items, grades in zip(rows.items, rows.grades, strict=True):
            found[names[int(items[0])]] = [(names[int(i)], int(g)) for i, g in zip(items, grades, strict=True)]
    return found


def test_candidates_by_hand() -> None:
    """With three candidates a stage all of a stage are taken, fewer repeat, and random ones stand in for none."""
    of = requests(build(log(), Protocol(**STAGES, per_stage=3, negatives=1)))
    assert set(of) == {"c1", "c2", "c3", "c4"}
    for positive, candidates in of.items():
        assert candidates[0] == (positive, 3)
        assert len(candidates) == 1 + 3 + 3 + 1
        assert candidates[7][1] == 0
    touched = {1: {"r1", "r2", "r3", "s1", "c1", "c2", "s2"}, 2: {"c3", "c4", "r4"}}
    assert {name for name, _ in of["c1"][1:4]} == {"r1", "r2", "r3"}
    assert [grade for _, grade in of["c1"][1:4]] == [1, 1, 1]
    assert of["c1"][4:7] == [("s1", 2)] * 3
    assert all(grade == 0 and name not in touched[1] for name, grade in of["c2"][1:4])
    assert of["c2"][4:7] == [("s2", 2)] * 3
    for positive in ("c3", "c4"):
        assert of[positive][1:4] == [("r4", 1)] * 3
        assert all(grade == 0 and name not in touched[2] for name, grade in of[positive][4:])


def test_histories_hold_earlier_positives_only() -> None:
    dataset = build(log(), Protocol(**STAGES))
    seen = {}
    for rows in dataset.parts.values():
        entries, lengths = dataset.timelines.windows(rows.users, rows.ends, 50)
        split = np.split(entries, np.cumsum(lengths)[:-1])
        for items, history in zip(rows.items, split, strict=True):
            seen[dataset.items["item_id"][int(items[0])]] = [dataset.items["item_id"][int(i)] for i in history]
    assert seen == {"c1": [], "c2": ["c1"], "c3": [], "c4": []}


def test_a_click_is_a_stage() -> None:
    """A log with labels and no stages has two: shown and clicked."""
    clicks = log()
    clicks = RawLog(
        clicks.name,
        clicks.schema,
        clicks.users,
        clicks.items,
        clicks.events.select("user", "item", "time", label=(pl.col("stage") == 9).cast(pl.Int8)),
    )
    of = requests(build(clicks, Protocol(**STAGES, per_stage=1)))
    assert {len(candidates) for candidates in of.values()} == {3}
    assert of["c2"][:2] == [("c2", 2), ("s2", 1)]


def test_files_keep_the_grades(tmp_path: Path) -> None:
    config = write_tables(log(), tmp_path / "tables", "csv")
    dataset = build(read_tables(config, tmp_path / "tables"), Protocol(**STAGES))
    dataset.save(tmp_path / "built")
    again = Dataset.load(tmp_path / "built")
    assert requests(again) == requests(dataset)
    assert requests(build(log(), Protocol(**STAGES))) == requests(dataset)


def test_wrong_stages_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs ties=strict"):
        preset("din", ["labels=stages"])
    with pytest.raises(ConfigError, match="per_stage is read with labels=stages only"):
        preset("din", ["per_stage=3"])
    with pytest.raises(DataError, match="every stage is 9"):
        build(log([event for event in EVENTS if event[3] == 9]), Protocol(**STAGES))
    bare = log()
    bare = RawLog(bare.name, bare.schema, bare.users, bare.items, bare.events.drop("stage"))
    with pytest.raises(DataError, match="needs a stage or label column"):
        build(bare, Protocol(**STAGES))
    config = write_tables(log(), tmp_path, "csv")
    events = (tmp_path / "events.csv").read_text().splitlines()
    events[2] = events[2].replace(",0", ",half")
    (tmp_path / "events.csv").write_text("\n".join(events) + "\n")
    with pytest.raises(DataError, match=r"row 2, column 'stage'.*a whole number"):
        read_tables(config, tmp_path)


def world(users: int = 60, requests_each: int = 12) -> RawLog:
    """In every request one item of ten is clicked, two of ten others were shown, two of ten others recalled.

    Labels say nothing of shown and recalled items but that they were not clicked.
    """
    rng = np.random.default_rng(3)
    events = [
        (user, f"{kind}{rng.integers(10)}", time, stage)
        for user in range(users)
        for time in range(requests_each)
        for kind, stage, many in (("r", 0, 2), ("s", 1, 2), ("c", 2, 1))
        for _ in range(many)
    ]
    names = [f"{kind}{number}" for kind in "rscx" for number in range(10)]
    table = pl.DataFrame(events, schema=["user", "item", "time", "stage"], orient="row")
    return RawLog("stages", SCHEMA, pl.DataFrame({"user_id": range(users)}), pl.DataFrame({"item_id": names}), table)


def test_the_hybrid_objective_learns_the_order_of_stages(tmp_path: Path) -> None:
    """Clicks alone cannot tell shown from recalled items; the loss over stages can, and ranks as well as can be."""
    build(world(), Protocol(**{**STAGES, "test_size": 0.2}, negatives_from="events")).save(tmp_path / "data")
    reached = {}
    for name, weights in {"clicks": {}, "hybrid": {"listwise": 0.5, "stages": 2.0}}.items():
        config = RunConfig(
            data=str(tmp_path / "data"),
            model={"name": "rank_tower", "tower": [16, 8], "embedding": 8, "head_width": 8, **weights},
            training={"max_epochs": 12, "batch_rows": 256, "learning_rate": 0.01},
        )
        report = run_experiment(config, tmp_path / name)
        reached[name] = report["test"]["stage_ndcg"]
        assert report["test"]["auc"] > 0.8
    assert reached["clicks"] < 0.97
    assert reached["hybrid"] > reached["clicks"] + 0.02


def test_the_loss_over_stages_needs_stages(tmp_path: Path, built: Path) -> None:
    config = RunConfig(data=str(built), model={"name": "rank_tower", "stages": 1.0}, training={"max_epochs": 1})
    with pytest.raises(ConfigError, match=r"model\.stages: .*labels=stages"):
        run_experiment(config, tmp_path / "run")
