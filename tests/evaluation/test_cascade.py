"""The cascade's metrics by hand, against brute force, scikit-learn, and what chance gives."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from prerank.evaluation.cascade import let_through, mean_and_error, ndcg, ranks, recall, shown

JUDGE = ranks(np.array([[5.0, 4, 3, 2, 1]]))  # the first candidate is its best
MODEL = ranks(np.array([[1.0, 9, 2, 8, 3]]))  # order: 1, 3, 4, 2, 0


def random_scores(users: int, candidates: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(users, candidates))


def best_first(scores: NDArray[np.float64]) -> list[int]:
    return sorted(range(len(scores)), key=lambda place: (-scores[place], place))


def test_ranks_by_hand_and_ties_in_the_candidates_order() -> None:
    assert ranks(np.array([[0.5, 2.0, 0.5, -1.0]])).tolist() == [[1, 0, 2, 3]]


def test_recall_and_ndcg_by_hand() -> None:
    assert recall(JUDGE, MODEL, top=2, cut=2).tolist() == [0.5]  # 1 of {0, 1} is in {1, 3}
    assert recall(JUDGE, MODEL, top=2, cut=4).tolist() == [0.5]
    assert recall(JUDGE, MODEL, top=2, cut=5).tolist() == [1.0]
    # gains 3, 2, 1, 0, 0 of candidates 0 to 4; the model's first three are 1, 3, 4
    best = 3 + 2 / np.log2(3) + 1 / 2
    assert ndcg(JUDGE, MODEL, top=3)[0] == pytest.approx(2 / best)


def test_the_cascade_by_hand() -> None:
    target = np.array([1])
    assert let_through(MODEL, target, cut=1).tolist() == [True]
    assert shown(JUDGE, MODEL, target, cut=1, top=1).tolist() == [True]  # alone, so first
    assert shown(JUDGE, MODEL, target, cut=5, top=1).tolist() == [False]  # the judge prefers 0, which came through
    assert shown(JUDGE, MODEL, np.array([0]), cut=4, top=4).tolist() == [False]  # cut off before the judge saw it
    assert shown(JUDGE, MODEL, np.array([-1]), cut=5, top=5).tolist() == [False]  # never recalled


def test_against_brute_force() -> None:
    judges, models = random_scores(30, 25, 1).round(1), random_scores(30, 25, 2).round(1)  # with ties
    judge, model, target = ranks(judges), ranks(models), np.random.default_rng(3).integers(-1, 25, size=30)
    for top, cut in ((1, 1), (3, 5), (5, 12), (5, 25)):
        found, hits = [], []
        for user in range(30):
            by_judge, by_model = best_first(judges[user]), best_first(models[user])
            found.append(len({*by_judge[:top]} & {*by_model[:cut]}) / top)
            hits.append(target[user] in [place for place in by_judge if place in by_model[:cut]][:top])
        assert recall(judge, model, top, cut).tolist() == found
        assert shown(judge, model, target, cut, top).tolist() == hits


def test_ndcg_against_scikit_learn() -> None:
    judge, scores = ranks(random_scores(40, 60, 4)), random_scores(40, 60, 5)
    for top in (1, 10, 60):
        gains = np.maximum(top - judge, 0)
        assert ndcg(judge, ranks(scores), top).mean() == pytest.approx(metrics.ndcg_score(gains, scores, k=top))


def test_the_judge_itself_loses_nothing_and_chance_keeps_its_share() -> None:
    users, candidates = 3000, 200
    judge, chance = ranks(random_scores(users, candidates, 6)), ranks(random_scores(users, candidates, 7))
    assert (recall(judge, judge, 10, 10) == 1).all()
    assert ndcg(judge, judge, 10) == pytest.approx(np.ones(users))
    kept = mean_and_error(recall(judge, chance, 10, 50))
    assert abs(kept["mean"] - 50 / candidates) < 4 * kept["se"] < 0.02
    target = np.argmax(judge == 0, axis=1)
    through = mean_and_error(shown(judge, chance, target, 50, 1))  # the judge's first is shown if it comes through
    assert abs(through["mean"] - 50 / candidates) < 4 * through["se"]


def test_an_error_of_the_mean() -> None:
    assert mean_and_error(np.array([0.0, 1.0, 1.0, 0.0])) == {"mean": 0.5, "se": pytest.approx(np.sqrt(1 / 12))}
    assert mean_and_error(np.array([True])) == {"mean": 1.0, "se": 0.0}
