"""A cascade in a world whose right answer is known, by real runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.small import small_config

from prerank.data.build import build
from prerank.data.log import Dataset
from prerank.data.protocol import preset
from prerank.data.sources.synthetic import checkerboard
from prerank.errors import DataError
from prerank.publish.bundle import load_bundle
from prerank.publish.publish import publish_bundle
from prerank.schema import PairField
from prerank.serving.preranker import PreRanker
from prerank.study import cascade as study
from prerank.study.cascade import UNRANKED, Wanted, cascade
from prerank.study.cascade_report import draw, markdown, pareto
from prerank.study.compare import compare_runs
from prerank.study.experiment import BUNDLE, run_experiment
from prerank.study.recalled import ask, at_random, popular, recalled
from prerank.training.config import RunConfig, TrainingConfig

Prerank = Callable[..., tuple[int, str, str]]
CANDIDATES, USERS = 40, 50


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "REPEATS", 10)
        yield


@pytest.fixture(scope="module")
def runs(built: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained FIT, its twin, and a Two-Tower with hardly any training."""
    directory = tmp_path_factory.mktemp("runs")
    small = {"embedding": 4, "tower": [16, 8], "meta_queries": 4}
    models = {"fit": ("fit", 30), "twin": ("fit", 30), "poor": ("two_tower", 1)}
    for name, (model, epochs) in models.items():
        training = TrainingConfig(max_epochs=epochs, patience=epochs, batch_rows=128, learning_rate=0.01)
        values = small_config(model, **small).model_dump(mode="json")
        run_experiment(RunConfig(data=built, model=values, training=training), directory / name)
    return {name: directory / name for name in models}


def wanted(judge: Path, **changes: Any) -> Wanted:
    values = {"recall": "random", "candidates": CANDIDATES, "top": [5, 10], "cut": [10, 20], "users": USERS, "seed": 1}
    return Wanted(**{"judge": judge, **values, **changes})


@pytest.fixture(scope="module")
def result(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    steps: list[tuple[int, int]] = []
    found = cascade(
        [runs["twin"], runs["poor"]],
        wanted(runs["fit"]),
        tmp_path_factory.mktemp("published"),
        lambda _, done, total: steps.append((done, total)),
    )
    assert [done for done, _ in steps] == list(range(steps[0][1]))
    return found


def test_a_model_equal_to_the_judge_loses_nothing(result: dict[str, Any]) -> None:
    for name in ("fit", "twin"):  # the twin has the same seed, so the same weights
        row = result["cascade"][name]
        assert {value["mean"] for cuts in row["recall"].values() for value in cuts.values()} == {1.0}
        assert [value["mean"] for value in row["ndcg"].values()] == pytest.approx([1.0, 1.0])
        assert {value["mean"] for cuts in row["hit_rate_lost"].values() for value in cuts.values()} == {0.0}


def test_the_order_of_random_recall_keeps_its_share(result: dict[str, Any]) -> None:
    row = result["cascade"][UNRANKED]
    assert "time" not in row
    for cut in (10, 20):
        kept = row["recall"]["10"][str(cut)]
        assert abs(kept["mean"] - cut / CANDIDATES) < 4 * kept["se"] < 0.1
        assert abs(row["let_through"][str(cut)]["mean"] - cut / CANDIDATES * result["recalled"]["mean"]) < 0.25


def test_a_poor_model_is_in_between_and_every_row_says_what_it_costs(
    result: dict[str, Any], runs: dict[str, Path]
) -> None:
    poor, unranked = result["cascade"]["poor"], result["cascade"][UNRANKED]
    assert unranked["recall"]["5"]["10"]["mean"] - 0.1 < poor["recall"]["5"]["10"]["mean"] < 1
    for name in ("fit", "twin", "poor"):
        row = result["cascade"][name]
        report = json.loads((runs[name] / "report.json").read_text("utf-8"))
        assert (row["model"], row["test_auc"]) == (report["model"]["name"], report["test"]["auc"])
        assert 0 < row["time"]["p50_ms"] <= row["time"]["p99_ms"] and row["time"]["requests"] == 10
        assert row["bytes_per_item"] == {"fit": 2 * 64 * 4 + 1, "two_tower": 8 * 4}[row["model"]]
    assert result["ranking"]["10"]["requests"] == 10


def test_hits_and_recall_as_by_asking_the_service(
    runs: dict[str, Path], world: Dataset, result: dict[str, Any], tmp_path: Path
) -> None:
    """The cascade carried out with two PreRankers, user by user, from raw values."""
    rankers = {}
    for name in ("fit", "poor"):
        publish_bundle(load_bundle(runs[name] / BUNDLE), world, tmp_path / name)
        rankers[name] = PreRanker.load(tmp_path / name)
    asked = ask(world, USERS, 1)
    found = recalled(at_random(world, 1), asked, CANDIDATES)
    ids = world.items["item_id"].to_list()
    hits, kept = [], []
    for request, items, target in zip(asked.requests, found, asked.targets, strict=True):
        every = [ids[item] for item in items]
        through = rankers["poor"].rank(request.user, every, 20, history=request.past).ids
        best = rankers["fit"].rank(request.user, every, 5, history=request.past).ids
        shown = rankers["fit"].rank(request.user, through, 5, history=request.past).ids
        hits.append(ids[target] in shown)
        kept.append(len({*best} & {*through}) / 5)
    row = result["cascade"]["poor"]
    assert row["hit_rate"]["5"]["20"]["mean"] == pytest.approx(np.mean(hits))
    assert row["recall"]["5"]["20"]["mean"] == pytest.approx(np.mean(kept))


def test_users_are_asked_at_their_next_event_without_what_they_have_seen(world: Dataset) -> None:
    asked = ask(world, 60, 1)  # all of them, with two test events each
    timelines, test = world.timelines, world.parts["test"]
    for user, (target, seen) in enumerate(zip(asked.targets, asked.seen, strict=True)):
        events = timelines.entries[timelines.offsets[user] : timelines.offsets[user + 1]]
        assert target == events[-2]
        assert seen.tolist() == events[:-2].tolist()
    found = recalled(popular(world), asked, CANDIDATES)
    counts = np.bincount(world.parts["train"].items[:, 0], minlength=world.items.height)
    for seen, items, place, target in zip(asked.seen, found, asked.places(found), asked.targets, strict=True):
        assert not set(seen) & set(items)
        assert (np.diff(counts[items]) <= 0).all()
        assert (items[place] == target) if place >= 0 else target not in items
    assert len(test) == 120


def test_values_that_nobody_knows_of_recalled_candidates_are_refused(world: Dataset) -> None:
    given = world.schema.model_copy(update={"pair": (PairField(name="distance"),)})
    with pytest.raises(DataError, match="pair fields distance are known for logged candidates only"):
        ask(replace(world, schema=given), 10, 1)


def test_a_run_can_recall(runs: dict[str, Path], tmp_path: Path) -> None:
    """Recalled by the judge itself, candidates come in its order, so cutting them there loses nothing."""
    result = cascade([runs["poor"]], wanted(runs["fit"], recall=str(runs["fit"])), tmp_path, lambda *_: None)
    assert result["recalled_by"] == "fit"
    assert [*result["cascade"]] == [UNRANKED, "poor", "fit"]
    assert result["cascade"][UNRANKED]["recall"]["10"]["10"]["mean"] == 1.0
    assert result["recalled"]["mean"] > 0.9  # half of the catalogue, and FIT knows the users' groups


def test_tables_and_figure(result: dict[str, Any], tmp_path: Path) -> None:
    text = markdown(result)
    assert "| fit (the ranker itself) |" in text and f"| {UNRANKED} | - |" in text
    widths = {len(line.split("|")) for line in text.splitlines() if line.startswith("| pre-ranker")}
    assert widths == {9, 7}
    draw(result, tmp_path / "cascade.svg")
    assert "twin" in (tmp_path / "cascade.svg").read_text("utf-8")


def test_the_front_holds_what_nothing_beats() -> None:
    points = {"slow": (9.0, 0.9), "fast": (1.0, 0.5), "worse": (2.0, 0.4), "middle": (3.0, 0.8), "equal": (3.0, 0.7)}
    assert pareto(points) == ["fast", "middle", "slow"]


def test_the_command(runs: dict[str, Path], prerank: Prerank, tmp_path: Path) -> None:
    arguments = ("--judge", runs["fit"], "--candidates", "30", "--top", "5", "--cut", "10", "--users", "20")
    code, out, err = prerank("cascade", runs["poor"], *arguments, "--json", tmp_path / "cascade.json")
    assert code == 0, err
    assert "| poor |" in out
    content = json.loads((tmp_path / "cascade.json").read_text("utf-8"))
    assert (content["judge"], content["recalled_by"], content["users"]) == ("fit", "popularity", 20)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--top", "5,x"], "--top 5,x: expected whole numbers"),
        (["--cut", "4"], "--cut 4: lets fewer through than --top 5"),
        (["--cut", "31"], "--cut 31: more than there are --candidates, 30"),
        (["--users", "61"], "--users 61: the test part has 60 users"),
        (["--candidates", "79"], "--candidates 79: a user has only"),
        (["--recall", "nothing"], "nothing: is not a run directory"),
    ],
)
def test_mistakes(runs: dict[str, Path], prerank: Prerank, options: list[str], expected: str) -> None:
    given = {"--candidates": "30", "--top": "5", "--cut": "10", "--users": "20"}
    given |= dict(zip(options[::2], options[1::2], strict=True))
    flat = [part for pair in given.items() for part in pair]
    code, _, err = prerank("cascade", runs["poor"], "--judge", runs["fit"], *flat)
    assert code == 2
    assert expected in err and err.count("\n") == 1


def test_runs_of_an_earlier_version_are_of_the_same_data(runs: dict[str, Path], tmp_path: Path) -> None:
    """Which did not write what it had no option for."""
    earlier = tmp_path / "earlier"
    shutil.copytree(runs["poor"], earlier)
    report = json.loads((earlier / "report.json").read_text("utf-8"))
    del report["dataset"]["protocol"]["per_stage"]
    (earlier / "report.json").write_text(json.dumps(report), "utf-8")
    rows = compare_runs([runs["poor"], earlier])["runs"]
    assert rows["earlier"]["test"] == rows["poor"]["test"]


def test_runs_of_other_data_or_of_one_name_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    other = build(checkerboard(users=20, items=40, events_per_user=8, seed=9), preset("din"))
    other.save(tmp_path / "data")
    training = TrainingConfig(max_epochs=1, batch_rows=256)
    values = {"name": "two_tower", "embedding": 4, "tower": [8]}
    for name in ("poor", "other"):
        run_experiment(RunConfig(data=tmp_path / "data", model=values, training=training), tmp_path / name)
    with pytest.raises(DataError, match="another data set"):
        cascade([tmp_path / "other"], wanted(runs["fit"]), tmp_path, lambda *_: None)
    with pytest.raises(DataError, match="is called poor, too"):
        cascade([tmp_path / "poor", runs["poor"]], wanted(runs["fit"]), tmp_path, lambda *_: None)
