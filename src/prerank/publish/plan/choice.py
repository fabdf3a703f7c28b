"""Which plan serves a model: the fastest one that gives the model's own logits."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch

from prerank.batch import Features
from prerank.layers.folding import folded
from prerank.models.base import PreRankingModel
from prerank.models.dat import DAT
from prerank.models.fit import FIT
from prerank.models.hit import HIT
from prerank.models.int_tower import IntTower
from prerank.models.two_tower import TwoTower
from prerank.publish.plan.base import NoPlanError, Past, PlainPlan, Plan
from prerank.publish.store import ItemStore
from prerank.schema import Inputs, Values

TOLERANCE = 1e-5
"""Largest difference of a logit from the model's, times max(1, |logit|, standard deviation): sums in another
order."""

CANDIDATES = 50  # that a plan proves itself on

log = logging.getLogger(__name__)


def serving_plan(model: PreRankingModel, store: ItemStore) -> Plan:
    """The fastest plan that is there for a model and proves itself on items of its store.

    Args:
        model: in evaluation mode, on the device that it will serve from.
        store: its items.

    Returns:
        The plan made for this kind of model; where there is none, or it cannot be built or does not give the model's
        logits, the model's own functions on folded weights; the model as it is, should that fail, too.
    """
    plain = PlainPlan(model)
    for make in (_own, _folded):
        try:
            plan = make(model, store)
            prove(plan, plain, model, store)
        except ModuleNotFoundError as error:
            log.info("%s: no plan of its own without %s; pip install 'prerank[serve]'", _name(model), error.name)
        except NoPlanError as error:
            log.info("%s: no plan of its own: %s", _name(model), error)
        except Exception as error:  # whatever it is, the model itself can still answer
            log.warning("%s: plan %s is not used: %s", _name(model), make.__name__[1:], error)
        else:
            return plan
    return plain


@torch.inference_mode()
def prove(plan: Plan, plain: Plan, model: PreRankingModel, store: ItemStore) -> None:
    """Compare two plans on random items and histories, which also compiles what the first request would wait for.

    Raises:
        ArithmeticError: they differ.
    """
    rng, inputs = np.random.default_rng(0), model.inputs
    for length in (0, 1, min(inputs.history_length, 20)):
        user, past = random_user(inputs, rng), random_past(store, length, model.behaviour_width, rng)
        pairs = random_rows(inputs.pair, CANDIDATES, rng) if model.reads_pairs and inputs.pair else None
        positions = rng.integers(len(store), size=CANDIDATES)
        expected = plain.logits(user, past, store, positions, pairs)
        scale = np.maximum(max(1, expected.std()), np.abs(expected))
        for _ in range(2):  # the second time, the plan may know the history's items
            difference = np.abs(plan.logits(user, past, store, positions, pairs) - expected) / scale
            if not (difference <= TOLERANCE).all():
                raise ArithmeticError(f"a logit differs from the model's by {np.max(difference):.2g}")


def random_user(inputs: Inputs, rng: np.random.Generator) -> Features:
    """One row of user and context fields."""
    return random_rows(inputs.user, 1, rng)


def random_rows(fields: Mapping[str, Values], rows: int, rng: np.random.Generator) -> Features:
    """Rows of fields of one side."""
    columns = {
        name: rng.integers(values, size=rows) if isinstance(values, int) else rng.uniform(-1, 1, rows)
        for name, values in fields.items()
    }
    tensors = {
        name: torch.from_numpy(column if column.dtype.kind == "i" else column.astype(np.float32))
        for name, column in columns.items()
    }
    return Features(tensors, rows)


def random_past(store: ItemStore, length: int, width: int, rng: np.random.Generator) -> Past:
    """A history of items of a store, or of random records where it has no behaviours of items."""
    if store.behaviours is None:
        return Past(torch.from_numpy(rng.normal(size=(length, width)).astype(np.float32)), None)
    items = rng.integers(len(store), size=length)
    return Past(store.remember(items, np.ones(length, dtype=np.bool_)), items)


def _own(model: PreRankingModel, store: ItemStore) -> Plan:
    if model.reads_pairs and model.inputs.pair:
        raise NoPlanError("there is none for pair features")
    device = next(model.parameters()).device.type
    if device != "cpu":
        raise NoPlanError(f"there is none for device {device}")
    match model:
        case FIT() if model.index_columns:
            plan: Plan = _class("fit", "FITPlan")(model, len(store))
        case FIT() | TwoTower() | DAT() | HIT():
            plan = _class("heads", "HeadsPlan")(model, model.scorer)
        case IntTower():
            plan = _class("heads", "HeadsPlan")(model, *model.scorers)
        case _:
            raise NoPlanError("there is none for this model")
    return plan


def _class(module: str, name: str) -> Any:
    """Imported only where it is needed, since Numba is optional and takes its time."""
    return getattr(import_module(f"prerank.publish.plan.{module}"), name)


def _folded(model: PreRankingModel, store: ItemStore) -> Plan:
    del store
    return PlainPlan(folded(model))


def _name(model: PreRankingModel) -> str:
    return type(model).__name__
