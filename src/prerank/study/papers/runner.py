"""Runs the cells of a study: as processes of one thread each, kept when finished, resumed when interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn, Protocol

import yaml

from prerank.study.experiment import finished
from prerank.study.lock import hold
from prerank.study.papers.cells import Cell

POLL_SECONDS = 0.2
Seconds = float


class Watcher(Protocol):
    """Who hears how a study goes."""

    def begun(self, cell: Cell) -> None:
        """A run has begun, or goes on where it was interrupted."""

    def ended(self, cell: Cell, metrics: dict[str, Any] | None, done: int, total: int, left: Seconds | None) -> None:
        """A run has ended; without metrics it has failed. ``left`` is about how long the others will take."""

    def busy(self, cell: Cell) -> None:
        """Another process trains it; it is left to that one."""


@dataclass
class Clock:
    """How long runs take: the mean of a row's finished runs, or of all."""

    seconds: dict[str, list[Seconds]] = field(default_factory=lambda: defaultdict(list))

    def add(self, cell: Cell) -> dict[str, Any]:
        """Note a finished run; its test metrics."""
        report = finished(cell.run)[1]
        self.seconds[cell.row].append(
            sum(epoch["train_seconds"] + epoch["valid_seconds"] for epoch in report["learning"])
        )
        metrics: dict[str, Any] = report["test"]
        return metrics

    def expected(self, row: str) -> Seconds | None:
        """Of one run of a row; None before any run has finished."""
        known = self.seconds.get(row) or [each for seconds in self.seconds.values() for each in seconds]
        return sum(known) / len(known) if known else None

    def left(self, waiting: Sequence[Cell], running: Sequence[tuple[str, Seconds]], jobs: int) -> Seconds | None:
        """Of all that is not done: the runs that wait, and those that run since so many seconds."""
        rest = [self.expected(cell.row) for cell in waiting]
        for row, elapsed in running:
            expected = self.expected(row)
            rest.append(None if expected is None else max(0.0, expected - elapsed))
        known = [seconds for seconds in rest if seconds is not None]
        return sum(known) / jobs if len(known) == len(rest) else None


@dataclass
class _Child:
    cell: Cell
    process: subprocess.Popen[bytes]
    lock: int
    log: IO[bytes]
    begun: Seconds


def run_cells(cells: Sequence[Cell], jobs: int, watcher: Watcher) -> dict[str, Cell]:
    """Train the cells that have not finished, several at a time.

    A cell that another process is training is left to it: two commands share a study's work. Whoever trains holds
    the cell's lock, also when the command that began it is killed. SIGTERM and Ctrl-C end the trainings as well.

    Returns:
        Failed cells by the last line of what they said.

    Raises:
        DataError: a finished run is of another configuration.
    """
    clock, failed = Clock(), dict[str, Cell]()
    waiting = [cell for cell in cells if not cell.done]
    for cell in cells:
        if cell not in waiting:
            clock.add(cell)
    total, done = len(cells), len(cells) - len(waiting)
    children: list[_Child] = []
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        while waiting or children:
            while waiting and len(children) < jobs:
                child = _begin(waiting.pop(0), watcher)
                children += [child] if child else []
            time.sleep(POLL_SECONDS)
            for child in [each for each in children if each.process.poll() is not None]:
                children.remove(child)
                _close(child)
                done += 1
                metrics = clock.add(child.cell) if child.process.returncode == 0 else None
                if metrics is None:
                    failed[f"{child.cell.run}: {_last_line(child.cell.log)}"] = child.cell
                running = [(each.cell.row, time.monotonic() - each.begun) for each in children]
                watcher.ended(child.cell, metrics, done, total, clock.left(waiting, running, jobs))
    finally:
        signal.signal(signal.SIGTERM, before)
        for child in children:
            child.process.terminate()
            child.process.wait()
            _close(child)
    return failed


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Leave by an exception, so that the trainings are ended, too."""
    del frame
    sys.exit(128 + number)


def _begin(cell: Cell, watcher: Watcher) -> _Child | None:
    lock = hold(cell.lock)
    if lock is None:
        watcher.busy(cell)
        return None
    if cell.done:  # by another process in the meantime
        os.close(lock)
        return None
    settings = cell.run.with_suffix(".yaml")
    content = {**cell.config.model_dump(mode="json", exclude_defaults=True), "seed": cell.seed}
    settings.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "prerank", "fit", str(settings), "--out", str(cell.run)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    log = cell.log.open("wb")
    watcher.begun(cell)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**os.environ, **threads, "POLARS_MAX_THREADS": "1"},
        pass_fds=(lock,),
    )
    return _Child(cell, process, lock, log, time.monotonic())


def _close(child: _Child) -> None:
    child.log.close()
    os.close(child.lock)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else "it said nothing"
