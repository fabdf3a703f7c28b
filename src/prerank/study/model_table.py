"""The models side by side: what each stores and costs, counted on the models themselves."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from prerank.batch import Batch, Features, History, Ragged
from prerank.models.base import PreRankingModel
from prerank.models.registry import MODELS, create, model_config
from prerank.models.single_tower import SingleTower
from prerank.models.target_attention import TargetAttention
from prerank.schema import Inputs

CANDIDATES = 50
MOVIELENS_1M = Inputs(
    user=dict.fromkeys(["user_id", "gender", "age", "occupation", "zip3"], 10),
    item=dict.fromkeys(["movie_id", "genres", "year"], 60),
    history=("movie_id", "genres"),
    user_id="user_id",
    item_id="movie_id",
    history_length=50,
)
"""MovieLens-1M's fields, with small vocabularies: how many values a field has changes no cost."""

FIT_ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "FIT": {},
    "w/o MQM": {"meta_queries": 0},
    "w/o LSS": {"scorer": "cosine"},
    "w SumMax": {"scorer": "sum_max"},
    "w FC": {"scorer": "fc"},
    "w/o self-attention": {"self_attention": False},
    "soft query, no temperature": {"query": "soft"},
    "hard query only": {"query": "hard"},
}
"""The ablations of FIT sec. 5.4."""


@dataclass(frozen=True)
class ModelFacts:
    """One row of the table.

    Attributes:
        name: in the registry.
        about: the first line of the model's module: what it is and who published it.
        decoupled: whether the networks on users and items are run apart, so that ``score`` only joins their results.
        floats, indices: of an item's row in the store.
        user_products, score_products: multiplications, those of matrix products and elementwise ones, of one
            request's ``user`` with a history of 50, and of one candidate's ``score``.
        parameters: without embedding tables.
        losses: terms of the training loss.
    """

    name: str
    about: str
    decoupled: bool
    floats: int
    indices: int
    user_products: int
    score_products: int
    parameters: int
    losses: tuple[str, ...]

    @property
    def stored_bytes(self) -> int:
        """Bytes of an item's row in float32; an index below 256 takes one."""
        return 4 * self.floats + self.indices


def model_facts(name: str, inputs: Inputs = MOVIELENS_1M, **changes: Any) -> ModelFacts:
    """Count one model of the registry, at its defaults but for ``changes``."""
    torch.manual_seed(0)
    model = create(model_config({"name": name, **changes}, "model table"), inputs)
    batch = _batch(inputs)
    _, auxiliary = model.train().relaxed(batch, epochs=0.5)
    model.eval().requires_grad_(False)  # as FlopCounterMode wants it without gradients
    one = batch.user.take(torch.zeros(1, dtype=torch.int64))
    with torch.no_grad():  # with gradients, compiled functions would go uncounted
        history = History(model.behaviour(batch.behaviours), batch.history.take(torch.zeros(1, dtype=torch.int64)))
        items = model.item(batch.items)
        with _Products() as of_user:
            user = model.user(one, history)
        with _Products() as of_score:
            model.score(user, items)
    about = inspect.getdoc(sys.modules[type(model).__module__]) or ""
    return ModelFacts(
        name=name,
        about=about.splitlines()[0].rstrip("."),
        decoupled=not isinstance(model, SingleTower | TargetAttention),
        floats=items.shape[1] - model.index_columns,
        indices=model.index_columns,
        user_products=of_user.total,
        score_products=of_score.total // CANDIDATES,
        parameters=sum(parameter.numel() for parameter in model.parameters()) - _table_weights(model),
        losses=("BCE", *auxiliary),
    )


def model_table() -> str:
    """The registry as a Markdown table."""
    lines = [
        "| model | what | towers | stored per item, bytes | `user`, products | `score`, products a candidate "
        "| parameters without tables | loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for facts in map(model_facts, MODELS):
        towers = "two" if facts.decoupled else "single"
        lines.append(f"| `{facts.name}` | {facts.about} | {towers} | {_costs(facts)} | {' + '.join(facts.losses)} |")
    return "\n".join(lines) + "\n"


def ablation_table() -> str:
    """FIT and its ablations as a Markdown table."""
    lines = [
        "| | keys | stored per item, bytes | `user`, products | `score`, products a candidate "
        "| parameters without tables |",
        "|---|---|---|---|---|---|",
    ]
    for name, changes in FIT_ABLATIONS.items():
        keys = ", ".join(f"`model.{key}={json.dumps(value)}`" for key, value in changes.items())
        lines.append(f"| {name} | {keys} | {_costs(model_facts('fit', **changes))} |")
    return "\n".join(lines) + "\n"


def _costs(facts: ModelFacts) -> str:
    numbers = (facts.stored_bytes, facts.user_products, facts.score_products, facts.parameters)
    return " | ".join(f"{number:,}" for number in numbers)


class _Products:
    """Counts multiplications within a ``with`` block."""

    def __init__(self) -> None:
        formulas: dict[Any, Any] = dict.fromkeys((torch.ops.aten.mul, torch.ops.aten.mul_), _elementwise)
        formulas[torch.ops.mkldnn._linear_pointwise] = _linear  # of layers.dense
        self.counter = FlopCounterMode(display=False, custom_mapping=formulas)
        self.total = 0

    def __enter__(self) -> _Products:
        self.counter.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.counter.__exit__(*error)
        self.total = self.counter.get_total_flops() // 2


def _elementwise(*_: Any, out_shape: Sequence[int], **__: Any) -> int:
    """As many products as results, counted as two operations like those of a matrix product."""
    return 2 * math.prod(out_shape)


def _linear(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    """Of (n, inputs) and (outputs, inputs)."""
    return 2 * x.numel() * weight[0]


def _batch(inputs: Inputs) -> Batch:
    """One request with a full history and one with an empty one, each with half of the candidates."""
    ids = torch.arange(inputs.history_length) % 10
    return Batch(
        user=Features(dict.fromkeys(inputs.user, torch.arange(2)), 2),
        behaviours=Features(dict.fromkeys(inputs.item, ids), len(ids)),
        history=Ragged(torch.arange(len(ids)), torch.tensor([0, len(ids), len(ids)])),
        items=Features(dict.fromkeys(inputs.item, torch.arange(CANDIDATES) % 10), CANDIDATES),
        labels=(torch.arange(CANDIDATES) % 2).float().view(2, -1),
    )


def _table_weights(model: PreRankingModel) -> int:
    tables = [table for side in (model.user_fields, model.item_fields) for table in side.tables]
    return sum(table.numel() for table in tables)
