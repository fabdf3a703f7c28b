"""Fields are chosen in a world where it is known which of them tell anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from prerank.cli.main import app
from prerank.data.build import build
from prerank.data.encoder import Encoder
from prerank.data.log import Dataset, RawLog
from prerank.data.protocol import preset
from prerank.errors import ConfigError, DataError
from prerank.models.fscd import FSCD, FSCDConfig
from prerank.schema import Inputs, Schema
from prerank.study.experiment import run_experiment
from prerank.study.selection import Method, choose, select_fields
from prerank.training.config import RunConfig, read_run

USERS, ITEMS, EACH, KINDS = 240, 80, 36, 4
SCHEMA = Schema(
    user_id="user_id",
    item_id="item_id",
    user=("mood", "city", "twin", "shoes"),
    item=("colour", "kind", "weight"),
    history=("colour",),
)
SIZES = {"embedding": 4, "embedding_std": 0.1, "tower": [16, 8]}
TRAINING = {"batch_rows": 256, "learning_rate": 0.01, "max_epochs": 5, "patience": 5, "device": "cpu"}
COSTS = {"strength": 0.02, "compute": {"user.twin": 4.0}}


def town() -> RawLog:
    """A click is whether the item's kind is the user's city, nine times of ten; ``twin`` repeats the city."""
    rng = np.random.default_rng(0)
    city, kind = rng.integers(KINDS, size=USERS), rng.integers(KINDS, size=ITEMS)
    who = np.repeat(np.arange(USERS), EACH)
    what = rng.permuted(np.tile(np.arange(ITEMS), (USERS, 1)), axis=1)[:, :EACH].ravel()
    right = rng.random(len(who)) < 0.9
    events = pl.DataFrame(
        {
            "user": who,
            "item": what,
            "time": np.tile(np.arange(EACH) * 3600, USERS),
            "label": ((city[who] == kind[what]) == right).astype(np.int8),
        }
    )
    noise = [rng.integers(KINDS, size=size) for size in (USERS, USERS, ITEMS, ITEMS)]
    users = {"user_id": np.arange(USERS), "mood": noise[0], "city": city, "twin": city, "shoes": noise[1]}
    items = {"item_id": np.arange(ITEMS), "colour": noise[2], "kind": kind, "weight": noise[3]}
    return RawLog("town", SCHEMA, pl.DataFrame(users), pl.DataFrame(items), events)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("town") / "data"
    build(town(), preset("impressions", [f"test_size={8 * 3600}"])).save(directory)
    return directory


@pytest.fixture(scope="module")
def inputs(data: Path) -> Inputs:
    return Encoder.fit(Dataset.load(data)).inputs


def run(data: Path, name: str, **model: Any) -> RunConfig:
    return RunConfig.model_validate({"data": data, "model": {"name": name, **SIZES, **model}, "training": TRAINING})


@pytest.fixture(scope="module")
def chosen(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Method, dict[str, Any]]:
    out = tmp_path_factory.mktemp("chosen")
    found: dict[Method, dict[str, Any]] = {
        "se": select_fields(run(data, "cold"), out / "se", 5, "se", {}),
        "fscd": select_fields(run(data, "two_tower"), out / "fscd", 4, "fscd", COSTS),
    }
    return found


def kept(selection: dict[str, Any]) -> set[str]:
    return {field["field"] for field in selection["fields"] if field["kept"]}


def ranked(selection: dict[str, Any]) -> list[str]:
    return [field["field"] for field in selection["fields"]]


def test_cold_finds_the_fields_that_tell(chosen: dict[Method, dict[str, Any]]) -> None:
    assert set(ranked(chosen["se"])[:3]) == {"user.city", "user.twin", "item.kind"}
    assert kept(chosen["se"]) == {"user.city", "user.twin", "item.kind", "history.colour", "item.colour"}


def test_fscd_takes_the_cheaper_of_twins(chosen: dict[Method, dict[str, Any]]) -> None:
    """City and its twin say the same, so one is enough; the twin is said to cost more."""
    assert set(ranked(chosen["fscd"])[:2]) == {"user.city", "item.kind"}
    assert kept(chosen["fscd"]) == {"user.city", "item.kind", "history.colour", "item.colour"}


def test_costs_of_the_other_twin_turn_the_choice(data: Path, tmp_path: Path) -> None:
    settings = {**COSTS, "compute": {"user.city": 4.0}}
    selection = select_fields(run(data, "cold"), tmp_path, 4, "fscd", settings)
    assert set(ranked(selection)[:2]) == {"user.twin", "item.kind"}


def test_the_selection_is_trained_again(data: Path, tmp_path: Path) -> None:
    """From the command line: choose, train again from the written configuration; nothing is lost on few fields."""
    config = tmp_path / "cold.yaml"
    config.write_text(json.dumps(run(data, "cold").model_dump(mode="json")))
    arguments = ["select", str(config), "--keep", "5", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--method", "se"])
    assert result.exit_code == 0 and "item.kind" in result.stdout
    selection = json.loads((tmp_path / "out" / "selection.json").read_text())
    again = read_run(tmp_path / "out" / "retrain.yaml")
    assert set(again.model["fields"]) == kept(selection)
    every = json.loads((tmp_path / "out" / "selector" / "report.json").read_text())["test"]["auc"]
    few = run_experiment(again, tmp_path / "few")
    assert few["test"]["auc"] > every - 0.01 and every > 0.85
    assert few["parameters"] < 0.9 * json.loads((tmp_path / "out/selector/report.json").read_text())["parameters"]
    published = ["publish", str(tmp_path / "few"), "--to", str(tmp_path / "published")]
    assert CliRunner().invoke(app, published).exit_code == 0  # which compares served with evaluated scores
    # a second call reads the finished selector, another configuration does not
    assert CliRunner().invoke(app, arguments).exit_code == 0
    with pytest.raises(DataError, match="holds another run"):
        select_fields(run(data, "cold", embedding=5), tmp_path / "out", 5, "se", {})


def test_choose_keeps_what_a_model_needs(inputs: Inputs) -> None:
    importance = dict(zip(inputs.names, [0.1, 0.2, 0.3, 0.4, 0.05, 0.06, 0.9, 0.8], strict=True))
    assert inputs.names[4:] == ("history.colour", "item.colour", "item.kind", "item.weight")
    # the only history field brings its item field; kind is the best of the rest
    assert choose(importance, inputs, 4) == ("user.shoes", "history.colour", "item.colour", "item.kind")
    assert choose(importance, inputs, 5)[-1] == "item.weight"
    assert choose(importance, inputs, 8) == inputs.names
    for keep in (2, 9):
        with pytest.raises(ConfigError, match=r"from 3 .* to 8 fields can be kept"):
            choose(importance, inputs, keep)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["user.city", "item.colour", "history.colour", "user.hat"], "'user.hat' is not a field; fields: user.mood"),
        (["item.colour", "history.colour"], "none of user is left"),
        (["user.city", "item.kind"], "none of history is left"),
        (["user.city", "item.kind", "history.colour"], "history.colour needs item.colour"),
    ],
)
def test_impossible_fields_are_refused(inputs: Inputs, fields: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        inputs.only(fields)


def test_fields_can_be_chosen_for_some_models_only(data: Path, tmp_path: Path) -> None:
    config = RunConfig.model_validate({"data": data, "model": {"name": "fit"}})
    with pytest.raises(ConfigError, match="fields can be chosen for two_tower, cold"):
        select_fields(config, tmp_path, 5, "se", {})


def test_fscd_costs_by_hand(inputs: Inputs) -> None:
    """Work online, width in units of 16, rows of the table over those of the largest one."""
    model = FSCD(inputs, FSCDConfig(embedding=8, compute={"history.colour": 3.0}, keys_weight=2.0))
    rows = {"user": model.user_fields, "item": model.item_fields, "history": model.item_fields}
    counts = [
        len(rows[side].tables[rows[side].positions[name]])
        for side, name in (field.split(".") for field in inputs.names)
    ]
    expected = [
        (3.0 if name == "history.colour" else 1.0) + 8 / 16 + 2.0 * count / max(counts)
        for name, count in zip(inputs.names, counts, strict=True)
    ]
    torch.testing.assert_close(model.get_buffer("costs"), torch.tensor(expected))
    with pytest.raises(ConfigError, match=r"model.compute: 'user.hat' is not a field"):
        FSCD(inputs, FSCDConfig(compute={"user.hat": 1.0}))


def test_gates_open_as_often_as_they_say(inputs: Inputs) -> None:
    torch.manual_seed(0)
    model = FSCD(inputs, FSCDConfig(temperature=0.01))
    with torch.no_grad():
        model.open.copy_(torch.linspace(0.1, 0.9, len(inputs.names)).logit())
        gates = model._gates(20_000)
        torch.testing.assert_close(gates.mean(0), torch.linspace(0.1, 0.9, len(inputs.names)), atol=0.015, rtol=0)
        assert bool(((gates < 0.01) | (gates > 0.99)).float().mean() > 0.9)
        assert torch.equal(model.eval()._gates(2)[1], model.open.sigmoid())
