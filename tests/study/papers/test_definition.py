"""The declarations of all studies are right before anything is trained."""

from __future__ import annotations

import pytest

from prerank.data.sources import SOURCES
from prerank.errors import ConfigError
from prerank.evaluation.metrics import relative_improvement
from prerank.models.registry import model_config
from prerank.study.papers.cells import parse_seeds
from prerank.study.papers.definition import find_data, find_published, find_study, known_data, study_names


@pytest.mark.parametrize("name", study_names())
def test_every_study_is_sound(name: str) -> None:
    study = find_study(name)
    for row in study.rows.values():
        model_config(row.model, row.title)
    printed = find_published(study.published) if study.published else None
    for row in study.rows.values():
        if row.published:
            assert printed is not None
            assert all(row.published in column for column in printed.values.values()), row.published
    if study.figure.kind == "lines":
        assert all(row.x is not None for row in study.rows.values())


def test_a_name_means_one_configuration() -> None:
    """Runs are shared between studies by the names of rows."""
    seen: dict[str, object] = {}
    for study in map(find_study, study_names()):
        for name, row in study.rows.items():
            meaning = (model_config(row.model, name), row.training)
            assert seen.setdefault(name, meaning) == meaning, name


@pytest.mark.parametrize("name", known_data())
def test_every_data_set_can_be_built_and_answers_to_a_column(name: str) -> None:
    data = find_data(name)
    assert data.source in SOURCES
    assert data.protocol.name == data.preset
    for study in map(find_study, study_names()):
        column = data.column.get(study.paper)
        if study.published and study.published.endswith(("table1", "inttower_table2")) and column:
            assert column in find_published(study.published).values


def test_the_papers_values_are_theirs() -> None:
    """FIT's own RelaImpr column follows from its AUCs (Table 1, ML-1M: 2.41, 8.51, 9.24, 10.82, 14.34 %)."""
    printed = find_published("fit_table1").values["ML-1M"]
    base = printed["Two-Tower"]["auc"]
    gains = [
        relative_improvement(printed[name]["auc"], base) for name in ("DAT", "COLD", "IntTower", "RankTower", "FIT")
    ]
    assert gains == pytest.approx([2.41, 8.51, 9.24, 10.82, 14.34], abs=0.03)


@pytest.mark.parametrize(
    ("text", "seeds"), [("5", [1, 2, 3, 4, 5]), ("1,3", [1, 3]), ("4-6", [4, 5, 6]), ("4-4", [4]), ("1,1-2", [1, 2])]
)
def test_seeds_are_counted_or_named(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "a", "1-", "3-1", "-1"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)
