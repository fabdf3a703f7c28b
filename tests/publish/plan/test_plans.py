"""Every plan gives the model's own logits, whatever the model, the request and the store."""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tests.test_contract import FIT, VARIANTS
from torch import Tensor, nn

from prerank.batch import Features
from prerank.data.loader import EncodedDataset
from prerank.layers.folding import folded
from prerank.models import fit
from prerank.models.base import PreRankingModel
from prerank.models.registry import create, model_config
from prerank.models.two_tower import TwoTower, TwoTowerConfig
from prerank.publish.key_table import KeyTable
from prerank.publish.plan import attention
from prerank.publish.plan.base import Floats, Past, PlainPlan, Plan
from prerank.publish.plan.choice import random_user, serving_plan
from prerank.publish.plan.fit import FITPlan
from prerank.publish.plan.heads import HeadsPlan
from prerank.publish.precision import PRECISIONS, Precision, Vectors
from prerank.publish.store import ItemStore
from prerank.schema import Inputs, Scaled, Values

INPUTS = Inputs(
    user={"user_id": 30, "age": 5, "city": 9},
    item={"item_id": 90, "genre": 7},
    history=("item_id", "genre"),
    user_id="user_id",
    item_id="item_id",
    history_length=12,
)
ITEMS = 90
TWO_TOWER = VARIANTS["two_tower"]


def model_of(values: dict[str, Any], seed: int = 0) -> PreRankingModel:
    """A model in which every parameter and every statistic matters: its logits differ by far more than they may err."""
    torch.manual_seed(seed)
    model = create(model_config(values, "test"), INPUTS)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    for parameter in model.parameters():
        if parameter.dim() < 2 or not parameter.any():
            nn.init.normal_(parameter, std=0.4)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.3, 2)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def store_of(model: PreRankingModel, precision: Precision = "float32") -> ItemStore:
    features = Features({"item_id": torch.arange(ITEMS), "genre": torch.arange(ITEMS) % 7}, ITEMS)
    items, past = model.item(features), model.behaviour(features)
    leading = model.index_columns
    keys = np.arange(ITEMS)
    return ItemStore(
        generation="g",
        kind="int",
        salt=0,
        table=KeyTable.build(keys),
        index=items[:, :leading].numpy().astype(np.uint8) if leading else None,
        precision=precision,
        rows=Vectors.store(items[:, leading:], precision),
        behaviours=Vectors.store(torch.cat([past, torch.zeros_like(past[:1])]), precision),
        matches=None,
        titles=None,
        updates=None,
    )


def plan_of(model: PreRankingModel) -> FITPlan:
    assert isinstance(model, fit.FIT)
    return FITPlan(model, ITEMS)


def requests(model: PreRankingModel, lengths: list[int], seed: int = 0) -> list[tuple[Features, Past, Any]]:
    rng = np.random.default_rng(seed)
    made = []
    for length in lengths:
        past = torch.from_numpy(rng.normal(size=(length, model.behaviour_width)).astype(np.float32))
        made.append((random_user(INPUTS, rng), Past(past, None), rng.integers(ITEMS, size=rng.integers(0, 300))))
    return made


@torch.inference_mode()
def logits(plan: Plan, store: ItemStore, request: tuple[Features, Past, Any]) -> Floats:
    return plan.logits(request[0], request[1], store, request[2])


def assert_same(plan: Plan, model: PreRankingModel, store: ItemStore, lengths: list[int]) -> None:
    """Within 1e-5 of the model's own functions."""
    for request in requests(model, lengths):
        expected = logits(PlainPlan(model), store, request)
        given = logits(plan, store, request)
        assert given.shape == expected.shape
        assert (np.abs(given - expected) <= 1e-5 * np.maximum(1, np.abs(expected))).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_model_is_served_with_its_own_logits(variant: str, precision: Precision) -> None:
    model = model_of(VARIANTS[variant])
    store = store_of(model, precision)
    plan = serving_plan(model, store)
    assert not (isinstance(plan, PlainPlan) and plan.model is model), "it is not even folded"
    assert_same(plan, model, store, [0, 1, 2, 5, 12, 13, 50])


@pytest.mark.parametrize("attention", [(5,), (8, 4), (7, 3, 2)])
@pytest.mark.parametrize("heads", [(1, 1), (2, 2), (3, 2), (2, 3), (4, 5)])
@pytest.mark.parametrize("scorer", ["lss", "fc", "sum_max"])
def test_fit_of_any_shape(attention: tuple[int, ...], heads: tuple[int, int], scorer: str) -> None:
    sizes = {"attention": attention, "user_heads": heads[0], "item_heads": heads[1], "scorer": scorer}
    model = model_of({**FIT, **sizes, "tower": (9,) * len(attention), "embedding": 3, "head_width": 5})
    store = store_of(model)
    plan = serving_plan(model, store)
    assert isinstance(plan, FITPlan)
    assert_same(plan, model, store, [0, 3, 11])


def test_blocks_of_queries_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CACHED", 100)
    for positions in (False, True):
        model = model_of({**FIT, "positions": positions})
        assert_same(plan_of(model), model, store_of(model), [1, 4, 12, 30])


@pytest.mark.parametrize("positions", [False, True])
def test_only_the_queries_that_candidates_use_are_computed(positions: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of({**FIT, "positions": positions})
    store, plan = store_of(model), plan_of(model)
    assert store.index is not None
    computed: list[Tensor] = []
    kind = type(plan.attention)
    whole = kind.__call__

    def watched(self: Any, past: Past, chosen: Tensor) -> Tensor:
        computed.append(chosen)
        return whole(self, past, chosen)

    monkeypatch.setattr(kind, "__call__", watched)
    request = requests(model, [9])[0]
    used = np.unique(store.index)[:2]
    positions_of_two = np.flatnonzero(np.isin(store.index[:, 0], used))
    assert len(used) == 2
    few = (request[0], request[1], positions_of_two)
    np.testing.assert_allclose(logits(plan, store, few), logits(PlainPlan(model), store, few), rtol=1e-5, atol=1e-5)
    assert computed[0].tolist() == used.tolist()


def remembered(store: ItemStore, items: list[int]) -> Past:
    """A history of a store's items; -1 is an unknown one."""
    positions = np.array(items, dtype=np.int64)
    return Past(store.remember(positions, positions >= 0), positions)


@pytest.mark.parametrize("kept", [4 * 6 * 3, 1 << 20])
def test_weights_of_items_that_were_met_are_the_right_ones(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that drive each other out (there is room for three, then for all), repeat and are unknown."""
    monkeypatch.setattr(attention, "KEPT", kept)
    model = model_of(FIT)
    store, plan = store_of(model), plan_of(model)
    rng = np.random.default_rng(0)
    for length in (0, 1, 5, 12, 12, 12, 50) * 3:
        past = remembered(store, (rng.integers(-1, ITEMS, size=length)).tolist())
        user, candidates = random_user(INPUTS, rng), rng.integers(ITEMS, size=rng.choice([2, 200]))
        given, expected = (logits(way, store, (user, past, candidates)) for way in (plan, PlainPlan(model)))
        np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)


def test_weights_of_items_that_were_met_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(FIT)
    store, plan = store_of(model), plan_of(model)
    user, candidates = random_user(INPUTS, np.random.default_rng(0)), np.arange(ITEMS)
    first = logits(plan, store, (user, remembered(store, [7, 3, -1, 3]), candidates))
    compute = plan.attention._weights
    computed: list[Tensor] = []

    def watched(table: Tensor, chosen: Tensor | None) -> Tensor:
        computed.append(table)
        return compute(table, chosen)

    monkeypatch.setattr(plan.attention, "_weights", watched)
    again = logits(plan, store, (user, remembered(store, [7, 3, -1, 3]), candidates))
    assert not computed and np.array_equal(first, again)
    logits(plan, store, (user, remembered(store, [3, 8, 7]), candidates))
    assert torch.equal(computed[0], remembered(store, [8]).table)


@torch.inference_mode()
def test_a_prepared_plan_computes_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(FIT)
    store, plan = store_of(model), plan_of(model)
    monkeypatch.setattr(attention, "RUN", 40)
    plan.prepare(store)
    monkeypatch.setattr(plan.attention, "_weights", None)
    request = (
        random_user(INPUTS, np.random.default_rng(0)),
        remembered(store, [*range(ITEMS)]),
        np.arange(ITEMS),
    )
    expected = logits(PlainPlan(model), store, request)
    np.testing.assert_allclose(logits(plan, store, request), expected, rtol=1e-5, atol=1e-5)


def test_a_place_in_the_history_belongs_to_no_item() -> None:
    model = model_of({**FIT, "positions": True})
    store, plan = store_of(model), plan_of(model)
    user, candidates = random_user(INPUTS, np.random.default_rng(0)), np.arange(ITEMS)
    answers = []
    for items in ([1, 2, 3], [3, 2, 1], [1, 2, 3]):
        past = remembered(store, items)
        answers.append(logits(plan, store, (user, past, candidates)))
        expected = logits(PlainPlan(model), store, (user, past, candidates))
        np.testing.assert_allclose(answers[-1], expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(answers[0], answers[2]) and not np.allclose(answers[0], answers[1])


OWN = {
    "fit": FITPlan, "two_tower": HeadsPlan, "two_tower linear": HeadsPlan, "fit w/o MQM": HeadsPlan,
    "dat": HeadsPlan, "hit": HeadsPlan, "int_tower": HeadsPlan, "int_tower cosine": HeadsPlan,
    "int_tower FC": PlainPlan, "rank_tower": PlainPlan, "fit w max cosine": FITPlan, "int_tower max cosine": HeadsPlan,
    "fit dien": PlainPlan, "wide_deep": PlainPlan,
}  # fmt: skip


@pytest.mark.parametrize("variant", OWN)
def test_each_kind_of_model_has_the_plan_made_for_it(variant: str, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(VARIANTS[variant])
    with caplog.at_level(logging.INFO):
        assert type(serving_plan(model, store_of(model))) is OWN[variant]
    assert ("no plan of its own" in caplog.text) == (OWN[variant] is PlainPlan)


class PairedTwoTower(TwoTower):
    """A model of a kind that has a plan, but one that reads a pair feature."""

    reads_pairs = True

    def with_pairs(self, items: Tensor, pairs: Features) -> Tensor:
        gap = pairs.columns["gap"]
        assert isinstance(gap, Tensor)
        return items * gap.unsqueeze(1)


def test_no_plan_passes_over_pair_features() -> None:
    config = model_config(TWO_TOWER, "test")
    assert isinstance(config, TwoTowerConfig)
    for pair, kind in ((dict[str, Values](), HeadsPlan), ({"gap": Scaled()}, PlainPlan)):
        model = PairedTwoTower(replace(INPUTS, pair=pair), config).eval()
        store = store_of(model)
        plan = serving_plan(model, store)
        assert type(plan) is kind
    user, past, positions = requests(model, [5])[0]
    gap = Features({"gap": torch.linspace(-1, 1, len(positions))}, len(positions))
    with torch.inference_mode():
        given, expected = (way.logits(user, past, store, positions, gap) for way in (plan, PlainPlan(model)))
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)
    assert abs(given - logits(plan, store, (user, past, positions))).max() > 1e-3


def test_without_numba_a_folded_model_serves(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(FIT)
    store = store_of(model)
    for module in ("kernels", "scoring", "attention", "heads", "fit"):
        monkeypatch.delitem(sys.modules, f"prerank.publish.plan.{module}", raising=False)
        monkeypatch.delattr(f"prerank.publish.plan.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    with caplog.at_level(logging.INFO):
        plan = serving_plan(model, store)
    assert isinstance(plan, PlainPlan) and plan.model is not model
    assert "prerank[serve]" in caplog.text
    assert_same(plan, model, store, [0, 7])


@pytest.mark.parametrize(("values", "kind"), [(FIT, FITPlan), (TWO_TOWER, HeadsPlan)])
def test_a_plan_that_is_wrong_is_not_used(
    values: dict[str, Any], kind: type[Plan], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of(values)
    store = store_of(model)
    right = kind.logits
    monkeypatch.setattr(kind, "logits", lambda *arguments: right(*arguments) + np.float32(1e-3))
    plan = serving_plan(model, store)
    assert isinstance(plan, PlainPlan) and plan.model is not model
    assert "a logit differs from the model's by 0.001" in caplog.text
    assert_same(plan, model, store, [0, 7])


def test_when_folding_fails_the_model_itself_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of(VARIANTS["wide_deep"])

    def fails(model: PreRankingModel) -> PreRankingModel:
        raise ValueError(f"{type(model).__name__} cannot be folded")

    monkeypatch.setattr("prerank.publish.plan.choice.folded", fails)
    plan = serving_plan(model, store_of(model))
    assert isinstance(plan, PlainPlan) and plan.model is model
    assert "WideDeep cannot be folded" in caplog.text


def test_threads_share_a_plan() -> None:
    model = model_of(FIT)
    store, plan = store_of(model), plan_of(model)
    rng = np.random.default_rng(0)
    several = requests(model, [*range(0, 48, 2)] * 4)
    several += [
        (user, remembered(store, rng.integers(-1, ITEMS, size=9).tolist()), items) for user, _, items in several
    ]
    expected = [logits(PlainPlan(model), store, request) for request in several]
    with ThreadPoolExecutor(8) as threads:
        given = list(threads.map(lambda request: logits(plan, store, request), several * 3))
    for number, answer in enumerate(given):
        np.testing.assert_allclose(answer, expected[number % len(several)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_folding_leaves_no_norm_behind_a_layer_copies_no_table_and_changes_no_model(variant: str) -> None:
    model = model_of(VARIANTS[variant])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy = folded(model)
    for layers in (module for module in copy.modules() if isinstance(module, nn.Sequential)):
        for before_it, layer in pairwise(layers):
            assert not (isinstance(before_it, nn.Linear) and isinstance(layer, nn.BatchNorm1d))
    for mine, theirs in zip(copy.user_fields.tables, model.user_fields.tables, strict=True):
        assert mine.data_ptr() == theirs.data_ptr()
    assert dict.fromkeys(before, True) == {
        name: torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()
    }


def test_evaluation_of_a_trained_model_is_not_touched(encoded: EncodedDataset) -> None:
    """A model whose weights still learn can be folded; gradients do not reach what is shared."""
    model = create(model_config(TWO_TOWER, "test"), encoded.encoder.inputs)
    folded(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.training
