"""Fixtures shared by all tests: small worlds, built once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prerank.cli.main import run
from prerank.data.build import build
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset
from prerank.data.log import Dataset
from prerank.data.protocol import preset
from prerank.data.sources.synthetic import checkerboard

# Models are tiny here: threads cost more than they save, and results must not depend on the number of cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world() -> Dataset:
    """Users who only touch items of their own group: the right order of candidates is known."""
    return build(checkerboard(users=60, items=80, events_per_user=12, seed=3), preset("din", ["test_size=2"]))


@pytest.fixture(scope="session")
def encoded(world: Dataset) -> EncodedDataset:
    """The world with an encoder fitted on its training part."""
    return EncodedDataset(world, Encoder.fit(world))


@pytest.fixture(scope="session")
def built(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world as a directory."""
    directory = tmp_path_factory.mktemp("world") / "dataset"
    world.save(directory)
    return directory


@pytest.fixture
def prerank(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: exit code, stdout, stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prerank", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            run()
        captured = capsys.readouterr()
        code = stop.value.code
        assert isinstance(code, int)
        return code, captured.out, captured.err

    return call
