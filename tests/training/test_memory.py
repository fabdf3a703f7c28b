"""What a process frees stays with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from prerank.training.memory import keep_freed_memory
heard = keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [torch.ones(1000 * n) for n in range(100)]
    del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(5):
    faults()
print(heard, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of the GNU C library")
def test_tensors_take_the_pages_of_those_before() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=120)
    heard, faults = done.stdout.split()
    if heard == "True":
        assert int(faults) < 500  # of 4,800 pages
