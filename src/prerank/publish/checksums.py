"""Checksums of files of any size: small ones by one hash, large ones by the hash of every block."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from prerank.errors import ArtefactError

Check = Literal["auto", "full"]

BLOCK = 2**22
WHOLE = 2**29
SAMPLES = 16


def facts(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file; beyond one block, the first 128 bits of the SHA-256 of each block."""
    size = path.stat().st_size
    if size <= BLOCK:
        return {"bytes": size, "sha256": _hash(path, 0)}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        blocks = list(threads.map(lambda number: _hash(path, number)[:32], range(_count(size))))
    return {"bytes": size, "blocks": blocks}


def check_files(directory: Path, listed: Mapping[str, Any], check: Check) -> None:
    """Compare files with their facts, on all cores.

    Args:
        directory: where the files are.
        listed: their facts by name.
        check: how thoroughly (see ``prerank.publish.files.verify``).

    Raises:
        ArtefactError: a file is missing or another one.
        OSError: a file cannot be read.
    """
    for name, known in listed.items():
        _check_size(directory / name, known["bytes"])
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for damage in threads.map(lambda block: _damage(directory, listed, *block), list(_chosen(listed, check))):
            if damage:
                raise ArtefactError(damage)


def _chosen(listed: Mapping[str, Any], check: Check) -> Iterator[tuple[str, int]]:
    """The blocks to check."""
    total = 0
    for name, known in sorted(listed.items(), key=lambda file: file[1]["bytes"]):
        total += known["bytes"]
        count = _count(known["bytes"]) if "blocks" in known else 1
        numbers = set(range(count))
        if check == "auto" and total > WHOLE and count > SAMPLES + 2:
            numbers = {0, count - 1, *(secrets.randbelow(count) for _ in range(SAMPLES))}
        yield from ((name, number) for number in sorted(numbers))


def _damage(directory: Path, listed: Mapping[str, Any], name: str, number: int) -> str | None:
    """What is wrong with a block, if anything."""
    known = listed[name]
    if "blocks" not in known:
        with (directory / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == known["sha256"]:
                return None
        place = "its SHA-256 is not the manifest's"
    elif _hash(directory / name, number)[:32] == known["blocks"][number]:
        return None
    else:
        last = min(known["bytes"], (number + 1) * BLOCK) - 1
        place = f"the SHA-256 of bytes {number * BLOCK} to {last} is not the manifest's"
    return f"{directory / name}: is damaged ({place}); publish or copy it again"


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise ArtefactError(f"{path}: is missing; publish or copy the directory again")
    if path.stat().st_size != size:
        raise ArtefactError(f"{path}: has {path.stat().st_size} bytes instead of {size}; damaged, copy it again")


def _hash(path: Path, number: int) -> str:
    with path.open("rb", buffering=0) as file:
        file.seek(number * BLOCK)
        data = bytearray(min(BLOCK, max(0, os.fstat(file.fileno()).st_size - number * BLOCK)))
        view, filled = memoryview(data), 0
        while filled < len(data) and (read := file.readinto(view[filled:])):
            filled += read
    return hashlib.sha256(view[:filled]).hexdigest()


def _count(size: int) -> int:
    return -(-size // BLOCK)
