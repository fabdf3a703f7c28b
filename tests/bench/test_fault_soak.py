"""A few calls and kills; more are made by hand (results/fault_soak.json)."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from prerank.cli.main import app

KILLS = ("wrong", "refused", "failed_beyond_those_in_flight", "counters_gone_back", "times_not_ready")
ZERO = {
    "counts": ("counters_off",),
    "worker_kills": KILLS,
    "worker_kills_under_light_load": KILLS,
    "switches": ("other_answers", "current_is_not_the_last", "workers_elsewhere", "requests_failed_or_wrong"),
    "publisher_kills": ("current_damaged", "partial_generations", "requests_failed_or_wrong", "refused_by_workers"),
}


def test_kills_and_switches(tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    few = ["--requests", "80", "--worker-kills", "0", "--publisher-kills", "2", "--switches", "2"]
    result = CliRunner().invoke(app, ["bench", "faults", *few, "--json", str(file)])
    assert result.exit_code == 0, result.output
    written = json.loads(file.read_text("utf-8"))
    for part, names in ZERO.items():
        assert {name: written[part][name] for name in names} == dict.fromkeys(names, 0)
    assert written["switches"]["switched"] > 0 and written["publisher_kills"]["requests"] > 0


def test_the_committed_run_has_seen_nothing() -> None:
    written = json.loads((Path(__file__).parents[2] / "results" / "fault_soak.json").read_text("utf-8"))
    for part, names in ZERO.items():
        assert {name: written[part][name] for name in names} == dict.fromkeys(names, 0)
    assert written["worker_kills"]["failed"] > 0  # so that it could have seen something
    assert written["worker_kills_under_light_load"]["seconds_until_it_answers"]["most"] < 3
