"""From start to end: swaps under load, orderly ends, and starts that fail with one line."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from prerank.errors import ArtefactError, ConfigError
from prerank.publish.generation import locate
from prerank.service.serve import serve as serve_here
from prerank.service.settings import ServiceConfig

pytestmark = pytest.mark.xdist_group("service")  # one process, so that its server is started once


def test_a_damaged_generation_does_not_start(published: Path) -> None:
    path = locate(published) / "store" / "rows.npy"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ArtefactError, match=r"rows\.npy: is damaged"):
        serve_here(published, ServiceConfig(port=0), lambda _: None)


def test_nothing_to_serve(tmp_path: Path) -> None:
    addresses: list[str] = []
    with pytest.raises(ArtefactError, match="nothing is published here"):
        serve_here(tmp_path, ServiceConfig(port=0), addresses.append)
    assert len(addresses) == 1


def test_an_address_that_is_taken(master: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1, port {port}: Address already in use"):
            serve_here(master, ServiceConfig(port=port), lambda _: None)
