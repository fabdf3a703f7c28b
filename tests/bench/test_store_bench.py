"""The benchmarks of the store on small stores: what they measure is there, and precision is what it says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from prerank.bench import precision as precision_bench
from prerank.bench.precision import _same_best, precision
from prerank.bench.store import store_bench
from prerank.cli.main import app
from prerank.data.loader import EncodedDataset
from prerank.errors import DataError
from prerank.evaluation.evaluate import evaluate
from prerank.models.registry import create, model_config
from prerank.publish.bundle import Bundle
from prerank.publish.precision import PRECISIONS


def test_every_store_is_measured_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "store.json"
    sizes = ["--items", "3000", "--large", "2000", "--width", "16", "--candidates", "50", "--repeats", "10"]
    result = CliRunner().invoke(app, ["bench", "store", *sizes, "--in", str(tmp_path), "--json", str(file)])
    assert result.exit_code == 0, result.output
    written = json.loads(file.read_text("utf-8"))
    bytes_a_row = {name: round(store["row_bytes"]) for name, store in written["stores"].items()}
    # 16 numbers, a header of 128 bytes for 3,000 rows, and with int8 a scale of 4 bytes a row
    assert bytes_a_row == {"float32": 64, "float16": 32, "bfloat16": 32, "int8": 20}
    for store in (*written["stores"].values(), written["large"]):
        assert {"lookup", "lookup_of_a_list", "gather", "both"} == set(store["milliseconds"])
        assert all(0 < times["p50"] <= times["p99"] for times in store["milliseconds"].values())
    assert list(tmp_path.iterdir()) == [file]


def test_systems_that_are_not_installed_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("prerank.bench.store.import_module", missing)
    result = store_bench(tmp_path, 1000, 0, 4, 10, 10, 0)
    assert set(result["stores"]) == set(PRECISIONS) and not {"lmdb", "redis", "large"} & set(result)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="not installed: redis-server")
def test_rows_of_a_shared_store_are_measured(tmp_path: Path) -> None:
    file = tmp_path / "shared.json"
    sizes = ["--items", "3000", "--width", "16", "--candidates", "50", "--repeats", "10", "--dtype", "int8"]
    result = CliRunner().invoke(app, ["bench", "redis", *sizes, "--json", str(file)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    written = json.loads(file.read_text("utf-8"))
    assert written["row_bytes"] == 20 and written["redis_bytes_a_row"] > 20
    assert all(way["requests"] == 10 for way in written["ways"].values())


def test_float32_is_what_evaluation_gives(encoded: EncodedDataset, tmp_path: Path) -> None:
    config = model_config({"name": "fit", "embedding_std": 1.0, "tower": [8]}, "test")
    torch.manual_seed(0)
    bundle = Bundle(create(config, encoded.encoder.inputs).eval(), encoded.encoder, config, {})
    result = precision(bundle, encoded.dataset, tmp_path, 20, 0)
    metrics = evaluate(bundle.model, encoded, "test", torch.device("cpu"), epochs=1.0).metrics
    exact = result["precisions"]["float32"]
    assert exact["auc"] == pytest.approx(metrics["auc"], abs=1e-6)
    assert exact["logloss"] == pytest.approx(metrics["logloss"], abs=1e-6)
    assert exact["same_best"] == result["requests"] == 20 and exact["auc_difference"] == 0
    assert result["precisions"]["int8"]["row_bytes_share"] == 132 / 512
    assert 0 < result["precisions"]["float16"]["largest_logit_difference"] < 0.01


def test_best_items_and_ties_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_bench, "TOP", 2)
    exact = np.array([[3.0, 2.0, 1.999, 0.0], [3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0]])
    given = np.array([[3.0, 1.9, 2.0, 0.0], [2.0, 3.0, 1.0, 0.0], [3.0, 0.0, 1.0, 0.0]])
    result = _same_best(exact, given, "float16")
    assert (result["same_best"], result["same_best_up_to_ties"]) == (1, 2)
    assert result["shared_of_best"] == pytest.approx(4 / 6) and result["widest_exchanged_gap"] == pytest.approx(1)


def test_histories_of_records_are_refused(encoded: EncodedDataset, tmp_path: Path) -> None:
    config = model_config({"name": "fit"}, "test")
    bundle = Bundle(create(config, encoded.encoder.inputs), encoded.encoder, config, {})
    schema = encoded.dataset.schema.model_copy(update={"history_of": "records"})
    with pytest.raises(DataError, match="histories of this data set are records"):
        precision(bundle, replace(encoded.dataset, schema=schema), tmp_path, 5, 0)
