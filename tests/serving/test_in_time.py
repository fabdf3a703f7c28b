"""Scoring until a time: what is answered is exact, in order, and its share of the candidates is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from tests.service.conftest import publish

from prerank.batch import Features
from prerank.data.build import build
from prerank.data.protocol import preset
from prerank.data.sources.synthetic import checkerboard
from prerank.publish import in_time
from prerank.publish.in_time import STEP
from prerank.publish.item_ids import Ints
from prerank.publish.plan.base import Floats, Past, PlainPlan, Plan, Score
from prerank.publish.store import ItemStore
from prerank.serving.preranker import PreRanker
from prerank.serving.request import Request

ITEMS = 700


@dataclass
class Clock:
    """Time that only passes when somebody scores."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Slow(Plan):
    """A plan that takes a millisecond a candidate, on a clock of its own."""

    def __init__(self, inner: Plan, clock: Clock) -> None:
        self.inner, self.clock = inner, clock
        self.scored = 0

    def begin(
        self, features: Features, past: Past, store: ItemStore, positions: Ints, pairs: Features | None = None
    ) -> Score:
        score = self.inner.begin(features, past, store, positions, pairs)

        def slowly(places: slice) -> Floats:
            logits = score(places)
            self.scored += len(logits)
            self.clock.now += 0.001 * len(logits)
            return logits

        return slowly


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> PreRanker:
    world = build(checkerboard(users=60, items=ITEMS, events_per_user=12, seed=3), preset("din", ["test_size=2"]))
    return PreRanker.load(publish(world, tmp_path_factory.mktemp("many") / "published"))


@pytest.fixture(params=["plan", "model"])
def slow(loaded: PreRanker, request: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[PreRanker, Slow]:
    """Scored by the serving plan, and by the model's own functions."""
    clock = Clock()
    monkeypatch.setattr(in_time, "perf_counter", clock)
    generation = loaded.generation
    inner = generation.plan if request.param == "plan" else PlainPlan(generation.bundle.model)
    plan = Slow(inner, clock)
    return PreRanker(replace(generation, plan=plan)), plan


def asked(count: int) -> Request:
    ids = [f"item-{number:04}" for number in range(ITEMS)]
    return Request(user={"user_id": 3}, candidates=ids[:count], history=ids[5:12])


@pytest.mark.parametrize(
    ("milliseconds", "scored"),
    [
        (0, STEP),  # too late already, and still an answer
        (STEP, STEP),
        (2 * STEP - 1, STEP),  # a second step would end one millisecond too late
        (2 * STEP, 2 * STEP),
        (2 * STEP + 100, 2 * STEP),
        (2000, 650),
    ],
)
def test_as_many_as_there_is_time_for(slow: tuple[PreRanker, Slow], milliseconds: int, scored: int) -> None:
    ranker, plan = slow
    request = asked(650)
    whole = ranker.answer(request)
    plan.scored = 0
    answer = ranker.answer(request, until=plan.clock.now + milliseconds / 1000 + 1e-9)
    assert plan.scored == scored and answer.unscored == 650 - scored
    first = set(list(request.candidates)[:scored])
    expected = {item: score for item, score in zip(whole.ids, whole.scores, strict=True) if item in first}
    assert answer.ids == list(expected)  # best first, of those alone
    np.testing.assert_allclose(answer.scores, list(expected.values()), rtol=1e-5, atol=1e-6)


def test_everything_else_is_of_what_was_scored(slow: tuple[PreRanker, Slow]) -> None:
    """Unknown and repeated candidates, columns and k, with time for the first step alone."""
    ranker, plan = slow
    ids = [f"item-{number:04}" for number in range(ITEMS)]
    given = ["withdrawn", ids[1], *ids[:600], ids[0], ids[599], ids[598]]
    bids = np.linspace(1, 2, len(given))
    request = Request(user={}, candidates=given, k=10, ranking="score * bid", columns={"bid": bids})
    answer = ranker.answer(request, until=plan.clock.now)
    first = Request(user={}, candidates=given[:258], k=10, ranking="score * bid", columns={"bid": bids[:258]})
    expected = ranker.answer(first)
    assert answer.ids == expected.ids and len(answer.ids) == 10
    np.testing.assert_allclose(answer.values, expected.values, rtol=1e-5, atol=1e-6)
    assert answer.unknown == ["withdrawn"]
    assert answer.duplicates == 2  # ids[1] and, at the end, ids[0]: both are scored
    assert answer.unscored == 600 - STEP + 2
    assert len(given) == len(answer.unknown) + STEP + answer.duplicates + answer.unscored


def test_nothing_to_score(slow: tuple[PreRanker, Slow]) -> None:
    ranker, plan = slow
    answer = ranker.answer(Request(user={}, candidates=[]), until=plan.clock.now)
    assert answer.ids == [] and answer.unscored == 0


def test_rank_takes_a_time_too(slow: tuple[PreRanker, Slow]) -> None:
    ranker, plan = slow
    ids = list(asked(600).candidates)
    assert ranker.rank({}, ids, until=plan.clock.now).unscored == 600 - STEP
    assert ranker.rank({}, ids).unscored == 0
