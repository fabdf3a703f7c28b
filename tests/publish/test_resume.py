"""A killed publish goes on where it was, and the result is that of an undisturbed one."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

import prerank
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset
from prerank.models.registry import create, model_config
from prerank.publish import encode
from prerank.publish.bundle import Bundle, save_bundle
from prerank.publish.encode import encode_catalogue
from prerank.publish.precision import Precision


def small(encoder: Encoder) -> Bundle:
    config = model_config({"name": "fit", "embedding_std": 1.0, "tower": [8]}, "test")
    torch.manual_seed(0)
    return Bundle(create(config, encoder.inputs).eval(), encoder, config, {})


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


class Killed(BaseException):
    """What stands for a kill within the process."""


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_rest_is_encoded_and_nothing_twice(
    encoded: EncodedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Precision
) -> None:
    monkeypatch.setattr(encode, "CHUNK", 9)
    monkeypatch.setattr(secrets, "randbits", lambda _: 5)
    bundle, items = small(encoded.encoder), encoded.dataset.items.lazy()
    encode_catalogue(bundle, items, tmp_path / "undisturbed", "g", "m", dtype=dtype, progress=None)

    def kill(done: int, _: int) -> None:
        if done >= 48:  # 60 % of 80
            raise Killed

    with pytest.raises(Killed):
        encode_catalogue(bundle, items, tmp_path / "killed", "other", "m", dtype=dtype, progress=kill)
    with (tmp_path / "killed" / "encoding.done").open("a") as log:
        log.write("5")  # half of a 54, when the kill came
    seen: list[int] = []
    encode_catalogue(
        bundle, items, tmp_path / "killed", "g", "m", dtype=dtype, progress=lambda done, _: seen.append(done)
    )
    assert seen == [63, 72, 80]
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


def test_other_inputs_begin_anew(encoded: EncodedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "CHUNK", 20)
    bundle, items = small(encoded.encoder), encoded.dataset.items
    changed = items.with_columns(category=pl.col("category").str.replace("0", "1"))
    assert not changed.equals(items)

    def kill(done: int, _: int) -> None:
        if done >= 40:
            raise Killed

    same: tuple[pl.DataFrame, str, Precision] = (items, "m", "float32")
    others: list[tuple[pl.DataFrame, str, Precision]] = [
        (changed, "m", "float32"),
        (items[::-1], "m", "float32"),
        (items, "n", "float32"),
        (items, "m", "float16"),
    ]
    for number, (table, model, dtype) in enumerate((same, *others)):
        place, seen = tmp_path / str(number), list[int]()
        with pytest.raises(Killed):
            encode_catalogue(bundle, items.lazy(), place, "g", "m", dtype="float32", progress=kill)

        def see(done: int, _: int, seen: list[int] = seen) -> None:
            seen.append(done)

        encode_catalogue(bundle, table.lazy(), place, "g", model, dtype=dtype, progress=see)
        assert seen == ([60, 80] if number == 0 else [20, 40, 60, 80])


PUBLISH = """
import os, signal, sys
from pathlib import Path
from prerank.data.log import Dataset
from prerank.publish import encode
from prerank.publish.bundle import load_bundle
from prerank.publish.publish import publish_bundle

place, built, kill = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
encode.CHUNK = 9

def progress(done, total):
    print(done)
    if done >= kill:
        os.kill(os.getpid(), signal.SIGKILL)

publish_bundle(load_bundle(place / "bundle"), Dataset.load(built), place / "to", progress=progress)
"""


def test_a_killed_publish_goes_on(encoded: EncodedDataset, built: Path, tmp_path: Path) -> None:
    save_bundle(small(encoded.encoder), tmp_path / "bundle")
    environment = {**os.environ, "PYTHONPATH": str(Path(prerank.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}

    def publish(kill: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PUBLISH, str(tmp_path), str(built), str(kill)]
        return subprocess.run(command, env=environment, check=False, timeout=120, capture_output=True, text=True)

    assert publish(48).returncode == -signal.SIGKILL
    finished = publish(1000)
    assert finished.returncode == 0, finished.stderr
    # The chunk of the kill was written before its progress was told.
    assert finished.stdout.split() == ["63", "72", "80"]
    assert len(list((tmp_path / "to" / "generations").iterdir())) == 1
