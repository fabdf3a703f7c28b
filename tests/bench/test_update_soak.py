"""Ten kills of writers; a hundred and more are run by hand (results/update_soak.json)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prerank.bench import update_soak
from prerank.cli.main import app

ZERO = ["lost", "invented", "replayed_differs", "follower_differs"]


def test_ten_kills(tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    result = CliRunner().invoke(app, ["bench", "updates", "--kills", "10", "--json", str(file)])
    assert result.exit_code == 0, result.output
    written = json.loads(file.read_text("utf-8"))
    assert written["kills"] == 10 and written["written"] > 0
    assert [written[name] for name in ZERO] == [0, 0, 0, 0]
    assert written["largest_difference_from_rebuild"] < 1e-5


def test_a_lost_record_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: a log whose last record is cut off after it was acknowledged."""
    soak = update_soak.Soak(tmp_path, 3)
    killed = soak._killed

    def cut(first: int, after: float) -> int:
        acknowledged = killed(first, after)
        log = soak._log()
        log.write_bytes(log.read_bytes()[:-1])
        return acknowledged + 1 if acknowledged else acknowledged

    while not soak.batches:
        soak.kill_one(0.3)
    monkeypatch.setattr(soak, "_killed", cut)
    result = soak.kill_one(0.3)
    assert result["torn_bytes"] > 0
    assert result["lost"] or result["replayed_differs"] or result["follower_differs"]
