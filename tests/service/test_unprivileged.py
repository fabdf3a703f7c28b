"""The service needs no rights: another user than root, and a directory that nobody may write."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.service.conftest import Running
from tests.service.test_workers import ONE

import prerank

pytestmark = [
    pytest.mark.xdist_group("service"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user"),
]

NOBODY = 65534
SERVE = """
import http.client, os, signal, sys, threading, time
from pathlib import Path
from prerank.service import logs, serve, settings

directory = Path(sys.argv[1])
config = settings.ServiceConfig(port=0, watch_seconds=0.05, drain_seconds=0.1)

def try_out(address):
    def run():
        connection = http.client.HTTPConnection(address.removeprefix("http://"))
        status = 0
        while status != 200:
            connection.request("POST", "/v1/rank", sys.argv[2], {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            status = response.status
            time.sleep(0.05)
        connection.close()
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=run).start()

serve.serve(directory, config, try_out)  # so that all is imported: the interpreter may be readable by root only
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    (directory / "CURRENT").write_text("x")
except PermissionError:
    pass
else:
    sys.exit("the directory can be written")
logs.log_to_stderr()
serve.serve(directory, config, lambda text: print(text, flush=True))
"""


@pytest.fixture
def unwritable(master: Path) -> Iterator[Path]:
    """A copy that everyone may read, and nobody but root write."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(master, Path(place) / "published"))
        for path in (Path(place), copy, *copy.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield copy
        for path in (Path(place), *copy.rglob("*"), copy):
            path.chmod(0o755)


def test_another_user_and_a_directory_to_read_only(unwritable: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in unwritable.rglob("*")}
    environment = {**os.environ, "PYTHONPATH": str(Path(prerank.__file__).parents[1]), "PYTHONWARNINGS": "error"}
    environment["OMP_NUM_THREADS"] = "1"
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(unwritable), json.dumps(ONE)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), log.read_text()
        server = Running(process, int(line.rsplit(":", 1)[1]), log)
        server.wait_for()
        assert Path(f"/proc/{process.pid}").stat().st_uid == NOBODY
        assert server.rank(ONE).status == 200
        current = (unwritable / "CURRENT").read_text().strip()
        other = next(path.name for path in (unwritable / "generations").iterdir() if path.name != current)
        (unwritable / "CURRENT").write_text(f"{other}\n")  # root publishes, the service only reads
        server.wait_for(other)
        after = {path: path.stat().st_mtime_ns for path in unwritable.rglob("*")}
        assert {path for path in after if after[path] != before.get(path)} == {unwritable / "CURRENT"}
        assert set(after) == set(before)
        for connection in server.connections:
            connection.close()
        assert server.end() == 0
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
