"""prerank bench training at a tiny size: models train in turn, ratios are those of rates, a wrong Python is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from prerank.batch import Batch, Features, Ragged
from prerank.bench import training_worker
from prerank.bench.training_report import markdown

Prerank = Callable[..., tuple[int, str, str]]


def test_models_train_in_turn(prerank: Prerank, built: Path, tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    options = ("--models", "fit,two_tower", "--rounds", "2", "--steps", "2", "--batch-rows", "64", "--batches", "1")
    code, out, err = prerank("bench", "training", "--data", built, *options, "--json", file)
    assert code == 0, err
    ((_, ways),) = json.loads(file.read_text())["data"].items()
    assert list(ways) == ["fit", "two_tower"]
    for one in ways.values():
        assert len(one["rounds"]) == 2
        assert one["peak_mib"] > 10
        assert 0 <= one["auc"] <= 1
    assert "| `two_tower` | `fit` |" in out


def test_a_python_without_the_peers_is_told(prerank: Prerank, built: Path, tmp_path: Path) -> None:
    for python in (tmp_path / "none", Path(sys.executable)):
        code, _, err = prerank("bench", "training", "--data", built, "--peers", python)
        assert code == 2
        assert "--peers" in err and "make oracles" in err


def test_an_unknown_model_is_told(prerank: Prerank) -> None:
    code, _, err = prerank("bench", "training", "--models", "fit,fitt")
    assert code == 2
    assert "--models fitt" in err


def test_ratios() -> None:
    def way(rate: float) -> dict[str, object]:
        return {"rows_per_second": rate, "rounds": [rate], "peak_mib": 1.0, "auc": 0.5}

    ml = {"fit": way(30), "two_tower": way(60), "rechub:DIN": way(10), "rechub:DSSM": way(20)}
    table = markdown({"data": {"ml-1m": ml, "amazon-sports": {"fit": way(45)}}})
    for line in (
        "| ml-1m | `fit` | torch-rechub's DIN | 3.00 |",
        "| ml-1m | `two_tower` | torch-rechub's DSSM | 3.00 |",
        "| ml-1m | `two_tower` | `fit` | 2.00 |",
        "| amazon-sports | `fit` | `fit` on ml-1m | 1.50 |",
    ):
        assert line in table


def test_peers_get_the_rows_with_padded_histories() -> None:
    genres = Ragged(torch.tensor([1]), torch.tensor([0, 1, 1]))
    batch = Batch(
        user=Features({"u": torch.tensor([5, 6])}, 2),
        behaviours=Features({"i": torch.tensor([7, 8]), "genres": genres}, 2),
        history=Ragged(torch.tensor([0, 1, 1]), torch.tensor([0, 2, 3])),
        items=Features({"i": torch.tensor([1, 2, 3, 4])}, 4),
        labels=torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
    )
    padded = training_worker._padded(batch, 3)
    assert {name: column.tolist() for name, column in padded.items()} == {
        "u": [5, 5, 6, 6],
        "i": [1, 2, 3, 4],
        "hist_i": [[7, 8, 0], [7, 8, 0], [8, 0, 0], [8, 0, 0]],
        "length": [2, 2, 1, 1],
    }
