"""Five swaps and a damaged generation; fifty and twenty are run by hand (results/service_soak.json)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from prerank.bench.service_world import World
from prerank.cli.main import app
from prerank.publish.generation import locate

ZERO = ["failed", "wrong", "bad_served", "half_sent_lost", "exit_code"]


def test_swaps_under_load_and_an_end_in_the_middle(tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    result = CliRunner().invoke(
        app,
        ["bench", "service", "--swaps", "5", "--bad", "1", "--steady", "0.5", "--workers", "2", "--json", str(file)],
    )
    assert result.exit_code == 0, result.output
    written = json.loads(file.read_text("utf-8"))
    assert {name: written[name] for name in ZERO} == dict.fromkeys(ZERO, 0)
    assert written["requests"] > 20 and written["milliseconds"]["during_swaps"]["count"] > 0


def test_an_answer_of_two_generations_is_found(tmp_path: Path) -> None:
    """The comparison can fail."""
    world = World(tmp_path, 1)
    assert locate(tmp_path).name == world.names[1]  # so that the first swap is one
    first, second = world.names

    def batch(generations: tuple[str, str], scores: tuple[str, str]) -> dict[str, object]:
        answers = [
            {"generation": named, "scores": world.truth[scored.partition("-")[2], 2][place]}
            for place, (named, scored) in enumerate(zip(generations, scores, strict=True))
        ]
        return {"generation": first, "answers": answers}

    assert world.right(batch((first, first), (first, first)))
    assert not world.right(batch((first, second), (first, first)))
    assert not world.right(batch((first, first), (first, second)))
    one = {"generation": first, "scores": world.truth[second.partition("-")[2], 1][0]}
    assert not world.right(one) and world.right({**one, "generation": second})


def test_damage_is_one_bit(tmp_path: Path) -> None:
    world = World(tmp_path, 1)
    name = world.damage(0, np.random.default_rng(1))
    good, bad = (tmp_path / "generations" / each for each in (world.names[0], name))
    bits = 0
    for path in good.rglob("*"):
        if path.is_file():
            pairs = zip(path.read_bytes(), (bad / path.relative_to(good)).read_bytes(), strict=True)
            bits += sum((before ^ after).bit_count() for before, after in pairs)
    assert bits == 1
