"""The latency benchmark on a small store: what it measures is there, and what it counts is right."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from prerank.bench import latency as bench
from prerank.bench import latency_soak
from prerank.bench.latency import CANDIDATES, HISTORIES, MAIN, QUERIES, Setting, scaling, settings, whole
from prerank.bench.latency_floor import counted, fit_products
from prerank.bench.latency_world import Request, catalogue, opened, publish, random_bundle, random_requests, scoring
from prerank.bench.timing import BLOCK, interleaved, quantiles
from prerank.cli.main import app
from prerank.errors import ConfigError
from prerank.models.fit import FIT
from prerank.publish.generation import Generation, open_generation
from prerank.publish.plan.fit import FITPlan
from prerank.serving.preranker import Ranked

ITEMS = ["--items", "1500"]


def run(tmp_path: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    file = tmp_path / "result.json"
    result = CliRunner().invoke(app, ["bench", *arguments, "--in", str(tmp_path), "--json", str(file)])
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content, result.output


def test_the_main_row(tmp_path: Path) -> None:
    result, shown = run(tmp_path, "latency", "--quick", "--repeats", "12", *ITEMS)
    for name in ("fit", "fit_unmet", "fit_naive", "two_tower"):
        row = result[name]
        assert 0 < row["p10_ms"] <= row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] and row["requests"] == 12
    floor = result["floor"]
    assert result["floor_ms"] == pytest.approx(floor["products_ms"] + floor["gather_ms"])
    assert result["ratios"]["fit/floor"] == pytest.approx(result["fit"]["p50_ms"] / result["floor_ms"])
    assert result["ratios"]["fit/fit_naive"] == pytest.approx(result["fit"]["p50_ms"] / result["fit_naive"]["p50_ms"])
    assert (result["candidates"], result["history"], result["threads"], result["meta_queries"]) == (2000, 50, 1, 64)
    assert result["floor_ms"] - floor["floor_of_met_items_ms"] == pytest.approx(
        1e3 * 2 * 3200 * (32 * 64 + 64 * 16 + 16) / (floor["gflops_per_second"] * 1e9)
    )
    assert floor["bytes_gathered"] == 2000 * 128 * 4
    assert result["fit"]["representation_bytes"] == 513 and result["two_tower"]["representation_bytes"] == 512
    assert result["fit"]["queries_used"] > 55, "the candidates have to use nearly all of the 64 meta queries"
    assert "| floor of fit |" in shown and [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_every_model_at_every_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CANDIDATES", (100, 2000))
    monkeypatch.setattr(bench, "HISTORIES", (0, 50))
    figure = tmp_path / "figure.svg"
    options = ["--models", "cold,lr", "--repeats", "2", "--budget", "0.001", "--figure", str(figure)]
    result, shown = run(tmp_path, "latency", *options, *ITEMS)
    names = ["fit", "two_tower", "cold", "lr", "fit_16", "fit_256"]
    assert list(result["models"]) == names and all(f"| {name} |" in shown for name in names)
    assert len(result["rows"]) == len(names) * 2 * 4
    assert result["scaling"]["queries_p50_ms"].keys() == {"16", "64", "256"}
    assert result["scaling"]["candidates_p50_ms"].keys() == {"100", "2000"}
    assert figure.read_text("utf-8").startswith("<?xml")


def test_settings_are_the_axes_of_the_issue() -> None:
    some, every = settings(every=False), settings(every=True)
    assert some[0] == every[0] == MAIN and len(some) == 1 + 5 + 3 + 1 and len(every) == 6 * 4 * 2
    assert {(one.candidates, one.history, one.threads) for one in every} >= {(100, 200, 2), (10_000, 0, 1)}
    assert set(some) < set(every) and 64 in QUERIES and 50 in HISTORIES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "fit,fitt"], "--models fitt: unknown; models: two_tower"),
        (["--quick", "--figure", "x.png"], "--figure: --quick measures one number of candidates only"),
    ],
)
def test_wrong_options_are_one_line(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", "latency", *arguments])
    assert isinstance(result.exception, ConfigError) and str(result.exception).startswith(message)


@pytest.mark.parametrize("history", [0, 7])
def test_flops_by_hand_and_by_pytorch(tmp_path: Path, history: int) -> None:
    """The hoisted products by hand; the plain path's by PyTorch's counter are those and what is hoisted."""
    bundle = random_bundle("fit", 300, 0, meta_queries=5)
    model = bundle.model
    assert isinstance(model, FIT)
    K, N, L, D, U = 11, 5, history, 32, 80
    attention = L * D * N * 64 + N * L * (64 * 16 + 16) + N * L * D
    tower = U * 300 + N * (D * 300 + 300 * 300 + 300 * 128 + 128 * 128)
    scorer = K * (2 * 2 * 64 + 2 * 2 * 16 + 16 * 2 * 16 + 16 * 16)
    assert sum(product.flops for product in fit_products(model, K, L)) == 2 * (attention + tower + scorer)
    publish(bundle, catalogue(300, 0).lazy(), tmp_path / "fit", "float32", None)
    _, naive = opened(tmp_path / "fit")
    (request,) = random_requests(naive, 1, K, L, 300, 0)
    assert counted(naive, request) > 2 * (attention + tower + scorer) - 2 * K * 2 * 2 * 64


def test_naive_and_served_answer_the_same(tmp_path: Path) -> None:
    publish(random_bundle("fit", 300, 0), catalogue(300, 0).lazy(), tmp_path / "fit", "float32", None)
    served, naive = opened(tmp_path / "fit")
    for request in random_requests(served, 5, 40, 9, 300, 1):
        np.testing.assert_allclose(scoring(served)(request), scoring(naive)(request), rtol=1e-5, atol=1e-5)


def test_unmet_is_unmet(tmp_path: Path) -> None:
    """Histories share no item, so that a plan that has met none has to compute the weights of all."""
    publish(random_bundle("fit", 300, 0), catalogue(300, 0).lazy(), tmp_path / "fit", "float32", None)
    served, _ = opened(tmp_path / "fit")
    past = np.concatenate([request.past for request in random_requests(served, 5, 40, 60, 300, 1)])
    assert len(np.unique(past)) == 300
    first, *_ = random_requests(served, 1, 40, 60, 300, 1)
    for generation, met in ((served, True), (open_generation(tmp_path / "fit"), False)):
        assert isinstance(generation.plan, FITPlan) and generation.plan.attention.kept is not None
        known = generation.plan.attention.kept.recall(first.past)[1]
        assert known.all() if met else known.sum() < 5  # but for those few that it proved itself on


def test_ways_take_turns() -> None:
    """Blocks of requests in turn; who has used up the time takes no further part, but has answered a few."""
    seen: list[str] = []

    def quick(_: None) -> None:
        seen.append("quick")

    def slow(_: None) -> None:
        seen.append("slow")
        time.sleep(0.01)

    ways = {"quick": quick, "slow": slow}
    times = interleaved(ways, [None], 30, 0.02)
    assert len(times["quick"]) == 30 and len(times["slow"]) == 5
    assert times["slow"].min() >= 0.01
    assert seen[-35:] == ["quick"] * BLOCK + ["slow"] * 5 + ["quick"] * 2 * BLOCK


def test_quantiles_by_hand() -> None:
    row = quantiles(np.arange(1, 102) / 1e3)
    assert (row["p10_ms"], row["p50_ms"], row["p90_ms"], row["p99_ms"]) == pytest.approx((11, 51, 91, 100))
    assert row["per_second"] == pytest.approx(101 / (101 * 51 / 1e3)) and row["requests"] == 101


def test_scaling_of_a_line() -> None:
    def row(setting: Setting, queries: int, p50: float) -> dict[str, Any]:
        name = "fit" if queries == 64 else f"fit_{queries}"
        return {"model": name, "path": "plan", "queries": queries, **setting._asdict(), "p50_ms": p50}

    rows = [row(MAIN._replace(candidates=k), 64, 1 + k / 1000) for k in CANDIDATES]
    rows += [row(MAIN, 16, 2.5), row(MAIN, 256, 5.0)]
    found = scaling(rows)
    assert found["microseconds_a_candidate"] == pytest.approx(1) and found["line_explains"] == pytest.approx(1)
    assert found["queries_p50_ms"] == {"16": 2.5, "64": 3.0, "256": 5.0}


def test_a_soak(tmp_path: Path) -> None:
    result, shown = run(tmp_path, "soak", "--requests", "40", *ITEMS)
    assert result["requests"] == 40 and len(result["resident_mib"]) == len(result["anonymous_mib"]) == 20
    assert all(0 < part <= whole for part, whole in zip(result["anonymous_mib"], result["resident_mib"], strict=True))
    assert result["growth_after_a_tenth_mib"] == result["resident_mib"][-1] - result["resident_mib"][2]
    assert "resident MiB" in shown


def test_a_soak_sees_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """400 requests that keep 600,000 bytes each: 18 twentieths less one of them come after the first tenth.

    What they keep is mapped, so that it is new memory whatever the tests before have freed, and far more than what may
    be freed of theirs meanwhile.
    """
    kept = []

    def leaking(generation: Generation) -> Callable[[Request], Any]:
        answer = whole(generation)

        def leak(request: Request) -> Ranked:
            kept.append(mmap(-1, 600_000, flags=MAP_PRIVATE | MAP_ANONYMOUS))
            kept[-1].write(b"1" * 600_000)
            return answer(request)

        return leak

    monkeypatch.setattr(latency_soak, "whole", leaking)
    result = latency_soak.soak(tmp_path, 1500, 400, 1, lambda *_: None)
    assert len(kept) == result["requests"] == 400
    assert result["anonymous_growth_after_a_tenth_mib"] == pytest.approx(17 * 20 * 600_000 / 2**20, rel=0.3)


def test_a_large_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_soak, "_in_new_process", lambda function, *arguments: function(*arguments))
    result, _ = run(tmp_path, "large", "--items", "3000", "--small", "1000", "--repeats", "5")
    for model in ("fit", "two_tower"):
        assert result[model]["large/small"] > 0 and result["encoded"]["large"][model]["items_per_second"] > 0
        # 128 + 32 numbers of two bytes, an id of eight, at least two slots of four, perhaps an index
        assert 336 <= result["encoded"]["large"][model]["item_bytes"] < 360
