"""Tuning with the same budget for every model: one search space, so many trials, the validation part only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from prerank.config import Strict, override, parse
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset
from prerank.data.log import Dataset
from prerank.errors import DataError, PrerankError
from prerank.study.experiment import describe_dataset, resolved
from prerank.study.lock import hold
from prerank.training.config import RunConfig
from prerank.training.trainer import Reporter, train


class Knob(Strict):
    """What is searched of one key: a range on a logarithmic scale, or one of a few values."""

    low: float | None = None
    high: float | None = None
    choices: tuple[float, ...] = ()


SPACE: Mapping[str, Knob] = {
    "training.learning_rate": Knob(low=2e-4, high=5e-3),
    "training.batch_rows": Knob(choices=(1024, 2048, 4096)),
    "training.embedding_decay": Knob(choices=(0.0, 1.0, 10.0)),
    "model.embedding_std": Knob(choices=(1e-4, 1e-2, 5e-2)),
}
"""The same for every model: what all of them have and the papers leave open or to a grid search."""


@dataclass(frozen=True)
class Tuned:
    """What a search has found.

    Attributes:
        config: the best trial's.
        facts: JSON-ready: what was searched, every trial with its values and best validation AUC, the best's number.
    """

    config: RunConfig
    facts: dict[str, Any]


def tune(
    config: RunConfig,
    trials: int,
    storage: Path,
    display: Callable[[str], AbstractContextManager[Reporter]],
    seed: int = 1,
) -> Tuned:
    """Search ``SPACE`` for the best validation AUC. The test part is not looked at.

    The first trial is the configuration as it is; the others are drawn by a tree-structured Parzen estimator whose
    draws depend on ``seed`` and the trials so far alone. A search that was killed goes on: an interrupted training
    resumes, and finished trials count.

    Args:
        config: what is tuned.
        trials: in all, those of earlier calls included; a training that diverges is one.
        storage: a journal of the trials; their run directories are in the folder of its name without suffix.
        display: opens a progress display for a named trial.
        seed: of the search.

    Raises:
        DataError: the storage is of another search, in use, or every trial has diverged.
        PrerankError: Optuna is not installed.
    """
    optuna = _optuna()
    lock = hold(storage.with_suffix(".lock"))
    if lock is None:
        raise DataError(f"{storage}: another process is searching with it")
    try:
        dataset = Dataset.load(config.data)
        data = EncodedDataset(dataset, Encoder.fit(dataset))
        study = _open(optuna, storage, _identity(config, dataset, seed))
        if not study.trials:
            study.enqueue_trial(_defaults(config))
        while (trial := _next(optuna, study, trials, seed)) is not None:
            run = storage.with_suffix("") / f"trial-{trial.number}"
            with display(f"trial {trial.number + 1} of {trials}") as reporter:
                value = _best_auc(with_values(config, trial.params), data, run, reporter)
            state = optuna.trial.TrialState.FAIL if value is None else None
            study.tell(trial.number, value, state=state)
        return _result(optuna, study, config, dataset)
    finally:
        os.close(lock)


def with_values(config: RunConfig, values: Mapping[str, float]) -> RunConfig:
    """The configuration with a trial's values, which are rounded to three digits so that a file can hold them."""
    changes = [f"{key}={_rounded(value)}" for key, value in values.items()]
    return parse(RunConfig, override(config.model_dump(mode="json"), changes), "trial")


def write_best(tuned: Tuned, data: Path, path: Path) -> None:
    """The best configuration, on that data set, as a file for ``prerank fit`` and for a study's ``--tuned``."""
    facts = tuned.facts
    best = facts["trials"][facts["best"]]
    head = f"# The best of {len(facts['trials'])} trials of prerank tune: validation AUC {best['valid_auc']:.4f}.\n"
    content = tuned.config.model_copy(update={"data": data}).model_dump(mode="json", exclude_defaults=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _optuna() -> Any:
    try:
        optuna = import_module("optuna")
    except ModuleNotFoundError:
        raise PrerankError("prerank tune needs Optuna; install it with: pip install 'prerank[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _open(optuna: Any, storage: Path, identity: Mapping[str, Any]) -> Any:
    backend = import_module("optuna.storages.journal").JournalFileBackend(str(storage))
    journal = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(storage=journal, study_name="prerank", direction="maximize", load_if_exists=True)
    known = study.user_attrs.get("identity")
    if known is None:
        study.set_user_attr("identity", dict(identity))
    elif known != identity:
        different = next(key for key in identity if known.get(key) != identity[key])
        raise DataError(f"{storage}: is a search with another {different}; choose another --storage")
    return study


def _next(optuna: Any, study: Any, trials: int, seed: int) -> Any:
    """The trial to run: the one that was interrupted, or a new one; None when there have been enough."""
    running = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.RUNNING]
    if running and set(running[0].params) == set(SPACE):
        return running[0]
    for trial in running:  # killed between two draws
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    number = sum(trial.state.is_finished() for trial in study.trials)
    if number >= trials:
        return None
    study.sampler = optuna.samplers.TPESampler(seed=seed + number)
    return study.ask({key: _distribution(optuna, knob) for key, knob in SPACE.items()})


def _best_auc(config: RunConfig, data: EncodedDataset, run: Path, reporter: Reporter) -> float | None:
    """Of one training, on the validation part; None if it diverges."""
    try:
        log = train(config, data, run, reporter).log
    except DataError as error:
        reporter.message(str(error))
        return None
    return max(float(epoch["valid_auc"]) for epoch in log)


def _result(optuna: Any, study: Any, config: RunConfig, dataset: Dataset) -> Tuned:
    complete = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if not complete:
        raise DataError("no trial has ended with a finite loss; lower training.learning_rate")
    best = max(complete, key=lambda trial: trial.value)
    listed = [
        {"values": {key: _rounded(value) for key, value in trial.params.items()}, "valid_auc": trial.value}
        for trial in study.trials
    ]
    space = {key: knob.model_dump(exclude_defaults=True) for key, knob in SPACE.items()}
    searched = {"model": dict(config.model), "training": resolved(config)["training"], "seed": config.seed}
    facts = {**searched, "dataset": describe_dataset(dataset), "space": space, "trials": listed, "best": best.number}
    return Tuned(with_values(config, best.params), facts)


def _identity(config: RunConfig, dataset: Dataset, seed: int) -> dict[str, Any]:
    values = resolved(config)
    return {
        "model": values["model"],
        "training": values["training"],
        "seed": [config.seed, seed],
        "data set": describe_dataset(dataset),
        "space": {key: knob.model_dump(mode="json") for key, knob in SPACE.items()},
    }


def _defaults(config: RunConfig) -> dict[str, float]:
    """The configuration's own values as the first trial; a value that no knob has takes the nearest."""
    values = resolved(config)
    found = {}
    for key, knob in SPACE.items():
        section, name = key.split(".")
        value = float(values[section][name])
        if knob.choices:
            found[key] = min(knob.choices, key=lambda choice: abs(choice - value))
        else:
            assert knob.low is not None
            assert knob.high is not None
            found[key] = min(max(value, knob.low), knob.high)
    return found


def _distribution(optuna: Any, knob: Knob) -> Any:
    if knob.choices:
        return optuna.distributions.CategoricalDistribution(knob.choices)
    return optuna.distributions.FloatDistribution(knob.low, knob.high, log=True)


def _rounded(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(f"{value:.3g}")
