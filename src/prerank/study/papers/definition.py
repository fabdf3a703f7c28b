"""What a study is: rows, tests and a figure, read from the YAML files beside this module; no code a study."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from prerank.config import Strict, parse, read_yaml
from prerank.data.protocol import Protocol, preset
from prerank.errors import ConfigError

HERE = Path(__file__).parent
STUDIES = HERE / "studies"
Paper = Literal["fit", "inttower"]


class Row(Strict):
    """One configuration of a table: the changes to the defaults.

    Attributes:
        title: in tables and figures.
        model: as a run's ``model``.
        training: changes to the data set's training.
        published: what the paper calls this row, where it has it.
        x, series: its place in a figure of lines.
    """

    title: str
    model: Mapping[str, Any]
    training: Mapping[str, Any] = {}
    published: str | None = None
    x: float | None = None
    series: str | None = None


class Comparison(Strict):
    """Each of ``rows`` is tested against the best of ``against``, the best being chosen for each metric."""

    rows: tuple[str, ...]
    against: tuple[str, ...]


class Measured(Strict):
    """A study of costs, whose rows are not trained to the end.

    Attributes:
        training: whether an epoch is timed.
        candidates: of the requests that are timed.
    """

    training: bool = True
    candidates: tuple[int, ...] = (2000,)


class FigureForm(Strict):
    """dots: a line of dots a row, one each seed; lines: over ``x``; curves: validation over epochs.

    Of costs: bars: a bar a row; candidates: latency over the number of candidates. Of the first seed's
    representations: item_map, items and meta queries in a plane; user_map, users with their held-out items.
    """

    kind: Literal["dots", "lines", "curves", "bars", "candidates", "item_map", "user_map"]
    metrics: tuple[str, ...] = ()
    x: str | None = None


class Study(Strict):
    """A table or figure of a paper.

    Attributes:
        paper: whose it is; decides which column of its tables a data set answers to.
        published: the table of ``published.yaml`` with the paper's values.
        base: the row that RelaImpr and differences count from.
        measured: what a study of costs measures; None where the rows are trained and scored.
        rows: by name; the same name means the same configuration in every study, so that its runs are shared.
    """

    name: str
    title: str
    paper: Paper
    published: str | None = None
    base: str
    rows: Mapping[str, Row]
    tests: tuple[Comparison, ...] = ()
    figure: FigureForm
    measured: Measured | None = None

    @model_validator(mode="after")
    def _rows_exist(self) -> Self:
        named = [self.base, *(name for test in self.tests for name in (*test.rows, *test.against))]
        missing = next((name for name in named if name not in self.rows), None)
        if missing is not None:
            raise ValueError(f"{missing} is named and is not among the rows")
        return self


class StudyData(Strict):
    """A data set that studies are run on.

    Attributes:
        source, preset, set: how it is built.
        column: of each paper, the column of its tables that this data answers to.
        differs: what sets it apart from the paper's data; where it is given, no differences are printed.
        training: what is trained otherwise than by default.
    """

    name: str
    source: str
    preset: str
    set: tuple[str, ...] = ()
    column: Mapping[Paper, str] = {}
    differs: str | None = None
    training: Mapping[str, Any] = {}

    @property
    def protocol(self) -> Protocol:
        """By which it is built."""
        return preset(self.preset, self.set)

    @property
    def build_command(self) -> str:
        """How the data set is made from the raw files."""
        changes = "".join(f" --set {change}" for change in self.set)
        return f"prerank data build {self.source} --from DIR --to data/{self.name} --preset {self.preset}{changes}"


class Published(Strict):
    """A table of a paper: values by column (data set), row and metric."""

    source: str
    values: Mapping[str, Mapping[str, Mapping[str, float]]] = Field(description="citations, not measurements")


def study_names() -> list[str]:
    """All studies: FIT's tables and figures, IntTower's, then those that are no paper's, which have no number."""
    names = [path.stem for path in STUDIES.glob("*.yaml")]
    return sorted(names, key=lambda name: (name.isalpha(), name.startswith("inttower"), "fig" in name, name))


def find_study(name: str) -> Study:
    """The study of that name.

    Raises:
        ConfigError: there is none; the message names the nearest one.
    """
    if name not in study_names():
        raise ConfigError(f"study {name!r}: unknown; {_hint(name, study_names())}")
    path = STUDIES / f"{name}.yaml"
    return parse(Study, {"name": name, **read_yaml(path)}, path.name)


def known_data() -> list[str]:
    """All data sets."""
    return list(_yaml("data.yaml"))


def find_data(name: str) -> StudyData:
    """The data set of that name.

    Raises:
        ConfigError: there is none; the message names the nearest one.
    """
    if name not in known_data():
        raise ConfigError(f"--dataset {name}: unknown; {_hint(name, known_data())}")
    return parse(StudyData, {"name": name, **_yaml("data.yaml")[name]}, f"data.yaml: {name}")


def find_published(name: str) -> Published:
    """A paper's table."""
    return parse(Published, _yaml("published.yaml")[name], f"published.yaml: {name}")


@cache
def _yaml(name: str) -> dict[str, Any]:
    return read_yaml(HERE / name)


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
