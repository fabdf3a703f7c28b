"""500 flipped bits over a published generation: each is refused by the name of its file, and the old one goes on."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.service.conftest import Running, Serve
from tests.service.test_live import names, point

from prerank.publish.generation import locate
from prerank.service.live import Live
from prerank.service.metrics import Metrics
from prerank.service.settings import ServiceConfig
from prerank.serving.preranker import PreRanker

pytestmark = pytest.mark.xdist_group("service")

FLIPS = 500
UNDER_A_SERVICE = 20


def flips(generation: Path) -> list[tuple[Path, int, int]]:
    """File, byte and bit of each, files by turns; the first ones are for the running service."""
    rng = np.random.default_rng(500)
    files = sorted(path for path in generation.rglob("*") if path.is_file())
    chosen = (files[number % len(files)] for number in range(FLIPS))
    return [(file, int(rng.integers(file.stat().st_size)), int(rng.integers(8))) for file in chosen]


@contextmanager
def flipped(file: Path, byte: int, bit: int) -> Iterator[None]:
    """As long as it lasts."""
    intact = file.read_bytes()
    damaged = bytearray(intact)
    damaged[byte] ^= 1 << bit
    file.write_bytes(damaged)
    yield
    file.write_bytes(intact)


@pytest.fixture
def other(published: Path) -> Path:
    """The generation that is not served; CURRENT will name it."""
    (name,) = set(names(published)) - {locate(published).name}
    return published / "generations" / name


def test_all_are_refused_by_the_name_of_their_file(
    published: Path, other: Path, ranker: PreRanker, caplog: pytest.LogCaptureFixture
) -> None:
    live = Live(published, ServiceConfig(preload=False), Metrics())
    assert live.look()
    expected = ranker.rank({}, ["item-0001"]).scores
    for file, byte, bit in flips(other)[UNDER_A_SERVICE:]:
        caplog.clear()
        point(published, other.name)
        with flipped(file, byte, bit), caplog.at_level(logging.ERROR):
            assert not live.look()
        (record,) = caplog.records
        assert f"{file}: is " in record.getMessage(), (file, byte, bit)
        assert live.ranker().rank({}, ["item-0001"]).scores == expected
    point(published, other.name)
    assert live.look() and live.generation == other.name  # with all bits as they were


def test_a_service_goes_on(serve: Serve, published: Path, other: Path) -> None:
    good = locate(published).name
    server = serve(published, "--set", "watch_seconds=0.02")
    connection = server.connect()
    for number, (file, byte, bit) in enumerate(flips(other)[:UNDER_A_SERVICE], 1):
        with flipped(file, byte, bit):
            point(published, other.name)
            while len(refusals(server)) < number:
                answer = server.rank({"candidates": ["item-0001"]}, connection=connection)
                assert (answer.status, answer.json["generation"]) == (200, good)
        assert f"{file}: is " in refusals(server)[-1]
        point(published, good)
        time.sleep(0.05)  # seen, or the next change is
    point(published, other.name)
    server.wait_for(other.name)
    assert server.numbers()['prerank_generation_loads_total{result="refused"}'] == UNDER_A_SERVICE
    shutil.rmtree(published / "generations" / good)  # nobody needs it any more
    assert server.rank({"candidates": ["item-0001"]}, connection=connection).json["generation"] == other.name


def refusals(server: Running) -> list[str]:
    """What the log says of generations that are not good."""
    lines = [line for line in server.log.read_text().splitlines() if line.endswith("}")]
    messages = [json.loads(line)["message"] for line in lines]
    return [message for message in messages if message.startswith("a generation is refused")]
