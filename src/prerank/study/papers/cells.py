"""The runs of a study: one a row and seed, each in a directory of its own that other studies share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prerank.config import override, parse, read_yaml
from prerank.errors import ConfigError, DataError
from prerank.models.registry import model_config
from prerank.study.experiment import REPORT, finished, resolved
from prerank.study.papers.definition import Row, Study, StudyData
from prerank.training.config import RunConfig, read_run

FREE = ("checkpoint_steps", "device")
"""Of training: what may differ between a finished run and the one that is asked for."""


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        row: name of its row.
        config: what is trained.
        run: its run directory.
    """

    row: str
    config: RunConfig
    run: Path

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.config.seed

    @property
    def done(self) -> bool:
        """Whether it has finished.

        Raises:
            DataError: what has finished there is another run.
        """
        if not (self.run / REPORT).is_file():
            return False
        differs = difference(finished(self.run)[0], self.config)
        if differs:
            raise DataError(f"{self.run}: {differs}; choose another --out, or delete it")
        return True

    @property
    def lock(self) -> Path:
        """Locked by who trains it."""
        return self.run.with_suffix(".lock")

    @property
    def log(self) -> Path:
        """What the training said."""
        return self.run.with_suffix(".log")


@dataclass(frozen=True)
class Plan:
    """A study on a data set, with what the command line changes.

    Attributes:
        study, data: what is run on what; ``data`` is None for a data set that is no paper's.
        directory: the built data set.
        out: directory of the runs.
        changes: ``key=value`` for every row.
        epochs: bound of each training; None takes the data set's.
        tuned: directory of ``prerank tune``, whose files replace model and training of the rows they are named after.
    """

    study: Study
    data: StudyData | None
    directory: Path
    out: Path
    changes: Sequence[str] = ()
    epochs: int | None = None
    tuned: Path | None = None

    def cell(self, row: str, seed: int) -> Cell:
        """One run.

        Raises:
            ConfigError: a change does not fit the row's configuration.
        """
        run = self.out / row / f"seed-{seed}"
        return Cell(row, parse(RunConfig, {**self.values(row), "seed": seed}, row), run)

    def values(self, row: str) -> dict[str, Any]:
        """The configuration of a row, checked.

        Raises:
            ConfigError: as ``cell``.
        """
        declared = self.study.rows[row]
        model, training = dict(declared.model), {**(self.data.training if self.data else {}), **declared.training}
        if self.tuned is not None:
            found = _tuned(self.tuned / f"{row}.yaml", declared)
            model, training = {**model, **found["model"]}, {**training, **found.get("training", {})}
        if self.epochs is not None:
            training["max_epochs"] = self.epochs
        values = override({"data": str(self.directory), "model": model, "training": training}, self.changes)
        model_config(parse(RunConfig, values, f"row {row}").model, f"row {row}")
        return values

    def cells(self, rows: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
        """All runs of those rows, seed by seed, so that a table fills evenly."""
        return [self.cell(row, seed) for seed in seeds for row in rows]

    def finished(self) -> dict[str, list[Cell]]:
        """Every finished run of the study by row, whichever command has made it, by seed."""
        found: dict[str, list[Cell]] = {}
        for row in self.study.rows:
            seeds = sorted(int(path.parent.name[5:]) for path in (self.out / row).glob(f"seed-*/{REPORT}"))
            found[row] = [cell for cell in (self.cell(row, seed) for seed in seeds) if cell.done]
        return found


def parse_seeds(text: str) -> list[int]:
    """``5`` is 1 to 5; ``1,3`` and ``4-6`` name them.

    Raises:
        ConfigError: it is none of these.
    """
    try:
        if text.isdecimal():
            seeds = list(range(1, int(text) + 1))
        else:
            ends = [part.partition("-") for part in text.split(",")]
            seeds = [seed for first, dash, last in ends for seed in range(int(first), int(last if dash else first) + 1)]
    except ValueError:
        seeds = []
    if not seeds:
        raise ConfigError(f"--seeds {text}: a number of seeds (5), seeds (1,3) or a range (4-6) is expected")
    return list(dict.fromkeys(seeds))


def difference(found: RunConfig, wanted: RunConfig) -> str | None:
    """The first setting by which a finished run is not the one that is wanted, in words."""
    for section in ("model", "training"):
        there, asked = (resolved(config)[section] for config in (found, wanted))
        for key in sorted({*there, *asked}):
            if there.get(key) != asked.get(key) and key not in FREE:
                return f"was run with {section}.{key}={there.get(key)}, this study wants {asked.get(key)}"
    return None


def _tuned(path: Path, row: Row) -> dict[str, Any]:
    values = read_yaml(path)
    if values.get("model", {}).get("name") != row.model["name"]:
        raise ConfigError(f"{path}: model.name must be {row.model['name']}")
    read_run(path)
    return values
