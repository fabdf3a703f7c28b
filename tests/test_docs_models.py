"""The tables of docs/models.md, docs/pre-rankers.md, docs/rankers.md and docs/training.md, against the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from prerank.config import Strict
from prerank.layers.similarity import Form
from prerank.models.dat import DATConfig
from prerank.models.fit import FITConfig
from prerank.models.hit import HITConfig
from prerank.models.int_tower import IntTowerConfig
from prerank.models.rank_tower import RankTowerConfig
from prerank.models.registry import MODELS, create, model_config
from prerank.models.two_tower import TwoTowerConfig
from prerank.study.model_table import MOVIELENS_1M, model_facts
from prerank.training.config import RunConfig, TrainingConfig

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "models.md").read_text(encoding="utf-8")
PRE_RANKERS = (DOCS / "pre-rankers.md").read_text(encoding="utf-8")
RANKERS = (DOCS / "rankers.md").read_text(encoding="utf-8")
TRAINING = (DOCS / "training.md").read_text(encoding="utf-8")


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
    assert documented(section(PAGE, "Two-Tower")) == defaults(TwoTowerConfig, "model.")
    assert documented(section(PAGE, "FIT").split("### Ablations")[0]) == defaults(FITConfig, "model.")


@pytest.mark.parametrize(
    ("title", "config"),
    [("DAT", DATConfig), ("IntTower", IntTowerConfig), ("RankTower", RankTowerConfig), ("HIT", HITConfig)],
)
def test_pre_rankers_keys_and_defaults(title: str, config: type[Strict]) -> None:
    assert documented(section(PRE_RANKERS, title)) == defaults(config, "model.")


KEYS = rows(section(RANKERS, "Keys"))[2:]
SINGLE = sorted({name for _, of, *_ in KEYS for name in of.split(", ")} | {"lr", "fm"})


@pytest.mark.parametrize("name", SINGLE)
def test_rankers_keys_and_defaults(name: str) -> None:
    written = {key.strip("`"): default for key, of, default, *_ in KEYS if name in of.split(", ")}
    everywhere = {"model.name", "model.embedding", "model.embedding_std"}
    config = defaults(MODELS[name].config, "model.")
    assert written == {key: value for key, value in config.items() if key not in everywhere}


def test_every_model_has_a_page() -> None:
    """In one of the tables that are compared with the code above or in test_docs_units.py."""
    pages = ["two_tower", "fit", "dat", "int_tower", "rank_tower", "hit", "din", "dien", *SINGLE]
    assert sorted(pages) == sorted(MODELS)
    ranked = [row[0].strip("`") for row in rows(section(RANKERS, "Rankers"))[2:]]
    assert sorted([*ranked, "cold", "fscd"]) == SINGLE


@pytest.mark.parametrize("name", MODELS)
def test_every_model_names_its_source(name: str) -> None:
    """The first line of its file: who, where, when."""
    documentation = sys.modules[MODELS[name].model.__module__].__doc__ or ""
    assert re.search(r"[A-Z]\w+( et al\.| and [A-Z]\w+)?, [A-Za-z-]+ 20\d\d\b", documentation.splitlines()[0])


def test_every_late_interaction_is_listed() -> None:
    listed = [row[0].strip("`") for row in rows(section(PRE_RANKERS, "Late interaction"))[2:]]
    assert listed == list(get_args(Form))


def test_training_keys_and_defaults() -> None:
    expected = {**defaults(TrainingConfig, "training."), "seed": str(RunConfig.model_fields["seed"].default)}
    assert documented(section(TRAINING, "Configuration")) == expected


def test_ablations_are_configurations() -> None:
    changes = re.findall(r"`model\.(\w+)=(\w+)`", section(PAGE, "FIT"))
    assert len(changes) >= 9
    for key, value in changes:
        config = model_config({"name": "fit", key: {"true": True, "false": False}.get(value, value)}, "docs")
        assert getattr(config, key) != FITConfig.model_fields[key].default


def test_costs_are_the_arithmetic_of_the_layers() -> None:
    """Two-Tower by hand: towers of 300, 300, 128 over 5 + 2 and 3 fields of 16, a scaled dot product, means."""
    facts = model_facts("two_tower")
    hidden = 300 * 300 + 300 * 128
    assert facts.user_products == 7 * 16 * 300 + hidden
    assert facts.score_products == 128 + 1
    towers = (7 * 16 + 1) * 300 + (3 * 16 + 1) * 300 + 2 * (301 * 300 + 301 * 128)
    assert facts.parameters == towers + 2 * 2 * (300 + 300 + 128) + 2
    assert (facts.stored_bytes, facts.losses, facts.decoupled) == (512, ("BCE",), True)


def test_scorers_have_as_many_parameters_as_said() -> None:
    made = [create(model_config({"name": "fit", "scorer": name}, "docs"), MOVIELENS_1M) for name in ("lss", "fc")]
    lss, fc = (sum(p.numel() for p in model.get_submodule("scorer").parameters()) for model in made)
    assert f"({lss} against {fc}, biases included)" in " ".join(PAGE.split())
