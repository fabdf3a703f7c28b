"""What single towers, LR and FM see: the fields of both sides, joined; against loops over the raw features."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from prerank.batch import Batch, Features, Ragged
from prerank.layers.embedding import FieldEmbeddings
from prerank.layers.linear import LinearTerm
from prerank.models.base import ModelConfig, PreRankingModel
from prerank.models.rankers.fm import FM, FMConfig
from prerank.models.rankers.lr import LR, LRConfig
from prerank.models.single_tower import SingleTower
from prerank.schema import Inputs

INPUTS = Inputs(
    user={"user_id": 4, "city": 3},
    item={"item_id": 6, "tags": 5},
    history=("tags", "item_id"),
    user_id="user_id",
    item_id="item_id",
    history_length=3,
)
TAGS = [[1, 2], [], [4], [3, 3, 1]]
IDS = [1, 2, 3, 5]
HISTORIES = [[0, 3], []]
USER_IDS, CITIES = [3, 1], [2, 0]
CANDIDATES = [[0, 1], [2, 0]]


class Weighted(SingleTower):
    """The sum of all fields' first components, each times its number."""

    def logit(self, fields: Tensor) -> Tensor:
        assert fields.shape[1:] == (6, 2)
        return (fields[:, :, 0] * torch.arange(1, 7)).sum(1)


def ragged(lists: list[list[int]]) -> Ragged:
    ends = torch.tensor([0, *(len(values) for values in lists)]).cumsum(0)
    return Ragged(torch.tensor([value for values in lists for value in values]), ends)


def items(rows: list[int]) -> Features:
    ids = torch.tensor([IDS[row] for row in rows])
    return Features({"item_id": ids, "tags": ragged([TAGS[row] for row in rows])}, len(rows))


def batch() -> Batch:
    return Batch(
        user=Features({"user_id": torch.tensor(USER_IDS), "city": torch.tensor(CITIES)}, 2),
        behaviours=items([0, 1, 2, 3]),
        history=ragged(HISTORIES),
        items=items([row for rows in CANDIDATES for row in rows]),
        labels=torch.zeros(2, 2),
    )


def made(*, wide: bool) -> Weighted:
    torch.manual_seed(0)
    return Weighted(INPUTS, ModelConfig(embedding=2, embedding_std=1.0), wide=wide).requires_grad_(False)


def mean(rows: list[Tensor]) -> Tensor:
    return torch.stack(rows).mean(0) if rows else torch.zeros(2)


def expected_fields(model: Any, request: int, candidate: int) -> list[Tensor]:
    user_id, city = model.user_fields.tables
    item_id, tags = model.item_fields.tables
    past = HISTORIES[request]
    return [
        user_id[USER_IDS[request]],
        city[CITIES[request]],
        mean([mean([tags[tag] for tag in TAGS[row]]) for row in past]),
        mean([item_id[IDS[row]] for row in past]),
        item_id[IDS[candidate]],
        mean([tags[tag] for tag in TAGS[candidate]]),
    ]


def test_the_fields_are_profile_then_history_then_candidate() -> None:
    model = made(wide=False)
    assert model.field_names == (
        "user.user_id",
        "user.city",
        "history.tags",
        "history.item_id",
        "item.item_id",
        "item.tags",
    )
    expected = [
        [
            sum(n * float(field[0]) for n, field in enumerate(expected_fields(model, request, candidate), 1))
            for candidate in row
        ]
        for request, row in enumerate(CANDIDATES)
    ]
    torch.testing.assert_close(model(batch()), torch.tensor(expected))


def test_a_wide_model_adds_a_weight_of_each_value() -> None:
    """Past items have weights of their own; with all embeddings at zero the linear term is all that is left."""
    model = made(wide=True)
    assert model.linear is not None
    for table in [*model.user_fields.tables, *model.item_fields.tables]:
        table.zero_()
    model.linear.bias.fill_(0.5)
    for request, candidate, logit in scored(model):
        torch.testing.assert_close(logit, expected_linear(model.linear, request, candidate))


def test_fm_taken_apart_is_the_sum_over_all_pairs_of_fields() -> None:
    torch.manual_seed(0)
    model = FM(INPUTS, FMConfig(embedding=2, embedding_std=1.0)).requires_grad_(False)
    model.linear.bias.fill_(0.5)
    for request, candidate, logit in scored(model):
        fields = expected_fields(model, request, candidate)
        assert len(fields) == 6
        products = torch.stack([one @ other for one, other in combinations(fields, 2)]).sum()
        torch.testing.assert_close(logit, expected_linear(model.linear, request, candidate) + products)


def test_lr_is_a_sum_of_weights() -> None:
    torch.manual_seed(0)
    model = LR(INPUTS, LRConfig(embedding_std=1.0)).requires_grad_(False)
    model.bias.fill_(0.5)
    tables = (model.user_fields, model.item_fields, model.past_fields)
    for request, candidate, logit in scored(model):
        torch.testing.assert_close(logit, torch.tensor(0.5) + expected_weights(*tables, request, candidate))


def scored(model: PreRankingModel) -> Iterator[tuple[int, int, Tensor]]:
    """Each request and candidate with the model's logit."""
    logits = model(batch())
    for request, row in enumerate(CANDIDATES):
        for place, candidate in enumerate(row):
            yield request, candidate, logits[request, place]


def expected_linear(linear: LinearTerm, request: int, candidate: int) -> Tensor:
    tables = (linear.user_weights, linear.item_weights, linear.past_weights)
    return linear.bias[0] + expected_weights(*tables, request, candidate)


def expected_weights(
    user: FieldEmbeddings, item: FieldEmbeddings, past: FieldEmbeddings, request: int, candidate: int
) -> Tensor:
    (users, cities), (ids, tags), (past_tags, past_ids) = user.tables, item.tables, past.tables
    weights = [average(past_tags, TAGS[row]) + past_ids[IDS[row]] for row in HISTORIES[request]]
    of_user = users[USER_IDS[request]] + cities[CITIES[request]]
    of_item = ids[IDS[candidate]] + average(tags, TAGS[candidate])
    of_past = sum(weights, torch.zeros(1)) / max(1, len(weights))
    expected: Tensor = (of_user + of_past + of_item)[0]
    return expected


def average(table: Tensor, values: list[int]) -> Tensor:
    return sum((table[value] for value in values), torch.zeros(1)) / max(1, len(values))
