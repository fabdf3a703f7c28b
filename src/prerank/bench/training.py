"""prerank bench training: rows a second of training, beside other packages on the same rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prerank.bench.environment import environment
from prerank.data.log import Dataset
from prerank.errors import ConfigError

PEERS = ("deepctr:DIN", "rechub:DIN", "rechub:DSSM")
"""Of DeepCTR-Torch, which has no DSSM, and torch-rechub."""

Progress = Callable[[str, int, int], None]

WARM_UP = 3  # steps, of which the first compiles


@dataclass(frozen=True)
class Wanted:
    """What to measure: ``steps`` of each way in each of ``rounds``, in turn."""

    models: tuple[str, ...]
    peers: Path | None
    rounds: int
    steps: int
    batch_rows: int
    batches: int
    seed: int


def training(folders: Sequence[Path], wanted: Wanted, progress: Progress) -> dict[str, Any]:
    """Train all ways in turn, each in a process of its own that waits while others work.

    Args:
        folders: built data sets.
        wanted: what to measure; ``peers`` is a Python with DeepCTR-Torch and torch-rechub, or None to leave them out.
        progress: hears what is being measured, how many rounds are done and of how many.

    Raises:
        ConfigError: the interpreter for the peers does not have them.
    """
    if wanted.peers is not None:
        _check(wanted.peers)
    result: dict[str, Any] = {
        "environment": environment(),
        "threads": torch.get_num_threads(),
        "settings": {**asdict(wanted), "models": list(wanted.models), "peers": wanted.peers is not None},
        "data": {},
    }
    for folder in folders:
        result["data"][Dataset.load(folder).name] = _compare(folder, wanted, progress)
    return result


def _compare(folder: Path, wanted: Wanted, progress: Progress) -> dict[str, Any]:
    workers: dict[str, subprocess.Popen[str]] = {}
    rates: dict[str, list[float]] = {}
    try:
        for way in (*wanted.models, *(PEERS if wanted.peers else ())):
            progress(f"{folder.name}: start {way}", 0, wanted.rounds)
            workers[way] = _start(way, folder, wanted)
            _ask(way, workers[way], WARM_UP)
        for number in range(wanted.rounds):
            progress(f"{folder.name}: rounds", number, wanted.rounds)
            for way, worker in workers.items():
                done = _ask(way, worker, wanted.steps)
                rates.setdefault(way, []).append(done["rows"] / done["seconds"])
        quality = {way: _ask(way, worker, 0) for way, worker in workers.items()}
    finally:
        for worker in workers.values():
            with worker:  # closes its pipes and waits for it
                worker.terminate()
    return {
        way: {
            "rows_per_second": float(np.median(each)),
            "rounds": each,
            "auc": quality[way]["auc"],
            "peak_mib": quality[way]["peak_mib"],
        }
        for way, each in rates.items()
    }


def _start(way: str, folder: Path, wanted: Wanted) -> subprocess.Popen[str]:
    order = {
        "way": way,
        "data": str(folder),
        "batch_rows": wanted.batch_rows,
        "batches": wanted.batches,
        "seed": wanted.seed,
        "threads": torch.get_num_threads(),
    }
    python = str(wanted.peers) if ":" in way else sys.executable
    command = [python, "-m", "prerank.bench.training_worker", json.dumps(order)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _ask(way: str, worker: subprocess.Popen[str], steps: int) -> dict[str, Any]:
    assert worker.stdin and worker.stdout
    worker.stdin.write(f"{steps}\n")
    worker.stdin.flush()
    said = []
    for line in worker.stdout:
        if line.startswith("{"):  # packages greet and warn, too
            answer: dict[str, Any] = json.loads(line)
            return answer
        said.append(line)
    raise RuntimeError(f"{way} ended: {''.join(said[-20:])}")


def _check(python: Path) -> None:
    command = [str(python), "-c", "import deepctr_torch, torch_rechub, prerank"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except OSError as error:
        raise ConfigError(f"--peers {python}: {error.strerror}; `make oracles` makes one") from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        raise ConfigError(f"--peers {python}: {reason}; `make oracles` makes an environment that has them")
