"""A real Redis server in a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("redis-server")


class RedisServer:
    """Listens on a free port of 127.0.0.1, keeps nothing on disk, and is stopped, frozen and started again."""

    def __init__(self, directory: Path, password: str | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.directory = directory
        self.password = password
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        assert PROGRAM is not None
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self.directory}
        options |= {"requirepass": self.password} if self.password else {}
        words = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self.process = subprocess.Popen([PROGRAM, *words], stdout=subprocess.DEVNULL)
        for _ in range(600):
            try:
                self.client().ping()
            except Exception:  # not yet
                time.sleep(0.1)
            else:
                return
        raise AssertionError("redis-server does not answer")

    def client(self) -> Any:
        import redis  # noqa: PLC0415

        return redis.Redis.from_url(self.url, password=self.password)

    def freeze(self) -> None:
        """It takes connections and answers nothing."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        assert self.process is not None
        self.thaw()
        self.process.terminate()
        self.process.wait(60)
