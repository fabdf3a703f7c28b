"""The tables of docs/models.md, docs/pre-rankers.md and docs/training.md, against the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from prerank.batch import Features, History, Ragged
from prerank.config import Strict
from prerank.layers.similarity import Form
from prerank.models.base import PreRankingModel
from prerank.models.dat import DATConfig
from prerank.models.fit import FITConfig
from prerank.models.hit import HITConfig
from prerank.models.int_tower import IntTowerConfig
from prerank.models.rank_tower import RankTowerConfig
from prerank.models.registry import create, model_config
from prerank.models.two_tower import TwoTowerConfig
from prerank.schema import Inputs
from prerank.training.config import RunConfig, TrainingConfig

DOCS = Path(__file__).parents[1] / "docs"
MODELS = (DOCS / "models.md").read_text(encoding="utf-8")
PRE_RANKERS = (DOCS / "pre-rankers.md").read_text(encoding="utf-8")
TRAINING = (DOCS / "training.md").read_text(encoding="utf-8")

# MovieLens-1M's fields.
INPUTS = Inputs(
    user=dict.fromkeys(["user_id", "gender", "age", "occupation", "zip3"], 10),
    item=dict.fromkeys(["movie_id", "genres", "year"], 60),
    history=("movie_id", "genres"),
    user_id="user_id",
    item_id="movie_id",
    history_length=50,
)
COSTS: dict[str, dict[str, Any]] = {
    "Two-Tower": {"name": "two_tower"},
    "FIT": {"name": "fit"},
    "FIT w/o MQM": {"name": "fit", "meta_queries": 0},
    "FIT w FC": {"name": "fit", "scorer": "fc"},
    "FIT w SumMax": {"name": "fit", "scorer": "sum_max"},
}


def section(text: str, title: str) -> str:
    """A page's part below a heading of the second level."""
    return text.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows of a text."""
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]


def documented(text: str) -> dict[str, str]:
    """Keys in code style and the cell after them."""
    return {row[0].strip("`"): row[1] for row in rows(text) if re.fullmatch(r"`[a-z_.]+`", row[0])}


def defaults(config: type[Strict], prefix: str) -> dict[str, str]:
    """The defaults as a page writes them."""

    def written(value: Any) -> str:
        if isinstance(value, tuple):
            return ", ".join(map(str, value))
        return str(value).lower()

    return {f"{prefix}{name}": written(field.default) for name, field in config.model_fields.items()}


def test_model_keys_and_defaults() -> None:
    assert documented(section(MODELS, "Two-Tower")) == defaults(TwoTowerConfig, "model.")
    assert documented(section(MODELS, "FIT").split("### Ablations")[0]) == defaults(FITConfig, "model.")


@pytest.mark.parametrize(
    ("title", "config"),
    [("DAT", DATConfig), ("IntTower", IntTowerConfig), ("RankTower", RankTowerConfig), ("HIT", HITConfig)],
)
def test_pre_rankers_keys_and_defaults(title: str, config: type[Strict]) -> None:
    assert documented(section(PRE_RANKERS, title)) == defaults(config, "model.")


def test_every_late_interaction_is_listed() -> None:
    listed = [row[0].strip("`") for row in rows(section(PRE_RANKERS, "Late interaction"))[2:]]
    assert listed == list(get_args(Form))


def test_pre_rankers_storage() -> None:
    table = {row[0].strip("`"): row[2:4] for row in rows(PRE_RANKERS.split("\n## ")[0])[2:]}
    assert set(table) == {"dat", "int_tower", "rank_tower", "hit"}
    items = Features(dict.fromkeys(INPUTS.item, torch.arange(3)), 3)
    for name, (floats, factor) in table.items():
        width = create(model_config({"name": name}, "docs"), INPUTS).eval().item(items).shape[1]
        assert floats == f"{width} floats"
        assert float(factor.split()[0]) == width / 128


def test_training_keys_and_defaults() -> None:
    expected = {**defaults(TrainingConfig, "training."), "seed": str(RunConfig.model_fields["seed"].default)}
    assert documented(section(TRAINING, "Configuration")) == expected


def test_ablations_are_configurations() -> None:
    changes = re.findall(r"`model\.(\w+)=(\w+)`", section(MODELS, "FIT"))
    assert len(changes) >= 9
    for key, value in changes:
        config = model_config({"name": "fit", key: {"true": True, "false": False}.get(value, value)}, "docs")
        assert getattr(config, key) != FITConfig.model_fields[key].default


def made(name: str) -> PreRankingModel:
    return create(model_config(COSTS[name], "docs"), INPUTS).eval()


def cost_table() -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in rows(section(MODELS, "Cost")) if row[0] in COSTS}


@pytest.mark.parametrize("name", list(COSTS))
def test_costs(name: str) -> None:
    stored, user_cost, score_cost, parameters = cost_table()[name]
    model = made(name)
    ids = torch.arange(50) % 10
    user = Features(dict.fromkeys(INPUTS.user, ids[:1]), 1)
    items = Features(dict.fromkeys(INPUTS.item, ids), 50)
    history = History(model.behaviour(items), Ragged(ids, torch.tensor([0, 50])))
    with FlopCounterMode(display=False) as counted:
        representation = model.user(user, history)
    assert counted.get_total_flops() == 2 * number(user_cost)
    candidates = model.item(items).detach().requires_grad_()  # the counter follows modules by their gradients
    floats = candidates.shape[1] - model.index_columns
    assert stored == f"{floats} floats" + " and 1 index" * model.index_columns
    with FlopCounterMode(display=False) as counted:
        model.score(representation, candidates)
    dot = floats if name == "Two-Tower" else 0  # a dot product, which the counter leaves out
    assert counted.get_total_flops() / 50 + 2 * dot == 2 * number(score_cost)
    tables = sum(table.numel() for side in (model.user_fields, model.item_fields) for table in side.tables)
    assert sum(parameter.numel() for parameter in model.parameters()) - tables == number(parameters)
    assert model.behaviour_width == 32


def test_scorers_have_as_many_parameters_as_said() -> None:
    lss, fc = (sum(p.numel() for p in made(name).get_submodule("scorer").parameters()) for name in ("FIT", "FIT w FC"))
    assert f"({lss} against {fc}, biases included)" in " ".join(MODELS.split())


def number(text: str) -> int:
    return int(text.replace(",", ""))
