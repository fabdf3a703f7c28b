"""Directories that are written whole or not at all, and read only if every byte is what was written."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from prerank import __version__
from prerank.errors import ArtefactError
from prerank.publish.checksums import Check, check_files, facts

FORMAT = 1
MANIFEST = "manifest.json"


@contextmanager
def aside(path: Path, resume: str | None = None) -> Iterator[Path]:
    """An empty directory to write into, gone after the block unless it was installed.

    What a killed writer left at ``path`` is removed first, but for what it left at ``resume`` in there; an
    interrupted writer (Ctrl-C) leaves it, too.

    Raises:
        ArtefactError: a file cannot be written (permissions, full disk).
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        for entry in path.iterdir():
            if entry.name != resume:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        yield path
    except KeyboardInterrupt:
        if resume is None:
            shutil.rmtree(path, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        reason = error.strerror or str(error)
        raise ArtefactError(f"{error.filename or path.parent}: could not be written: {reason}") from None
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)


def install(work: Path, target: Path) -> None:
    """Move a finished directory to its name, on disk before it is visible.

    Raises:
        ArtefactError: there is something at ``target``; nothing published is ever overwritten.
    """
    refuse_existing(target)
    for path in (*work.rglob("*"), work):
        sync(path)
    work.rename(target)
    sync(target.parent)


def refuse_existing(target: Path) -> None:
    """Raise ArtefactError if anything is at ``target``."""
    if target.exists() or target.is_symlink():
        raise ArtefactError(f"{target}: exists already and is never overwritten; choose another place or remove it")


def replace_text(path: Path, text: str) -> None:
    """Replace a small file in one step: readers see the old text or the new one."""
    work = path.with_name(f".{path.name}.part")
    work.write_text(text, encoding="utf-8")
    sync(work)
    work.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the system write a file's data or a directory's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_file(directory: Path) -> IO[str]:
    """The open file that whoever changes the directory locks.

    Raises:
        ArtefactError: the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return (directory / ".lock").open("w")
    except OSError as error:
        raise ArtefactError(f"{directory}: cannot be written: {error.strerror}") from None


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, which the system releases even if the process is killed.

    Raises:
        ArtefactError: another process holds it, or the directory cannot be written.
    """
    with lock_file(directory) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtefactError(f"{directory}: another publish is running here; wait for it to end") from None
        yield


def content_hash(directory: Path) -> str:
    """SHA-256 of the files that lie directly in ``directory``."""
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.iterdir() if path.is_file()):
        digest.update(f"{path.name} {_sha256(path)}\n".encode())
    return digest.hexdigest()


def new_generation(content: str) -> str:
    """A name for what has this hash: the time (UTC) and eight digits of it."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{content[:8]}"


def seal(directory: Path, generation: str, model: str) -> None:
    """Write the manifest of every file below ``directory``; nothing may be added or changed afterwards."""
    paths = (path for path in directory.rglob("*") if path.is_file())
    files = {path.relative_to(directory).as_posix(): facts(path) for path in paths}
    values = {"format": FORMAT, "generation": generation, "prerank": __version__, "model": model, "files": files}
    text = _canonical({**values, "sha256": _digest(values)})
    (directory / MANIFEST).write_text(text, encoding="utf-8")


def verify(directory: Path, check: Check = "auto") -> dict[str, Any]:
    """The manifest of a sealed directory whose files are all there, unchanged, and alone.

    Done before anything is parsed or mapped: safetensors accepts a flipped bit, and a mapped file that is too short
    kills the process. Existence and size of every file are always checked.

    Args:
        directory: what was sealed.
        check: ``full`` hashes every byte. ``auto``, too, up to a bound that keeps opening quick: it hashes whole files,
            the smallest first, up to a total of ``WHOLE`` bytes, and of each larger file the first, the last and
            ``SAMPLES`` random blocks.

    Raises:
        ArtefactError: a file is missing, changed or not in the manifest, or the format version is another one.
    """
    try:
        manifest = read_manifest(directory / MANIFEST)
        listed: Mapping[str, Any] = manifest["files"]
        present = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
        for name in sorted(present - listed.keys() - {MANIFEST}):
            raise ArtefactError(f"{directory / name}: is not in the manifest; published directories are never changed")
        check_files(directory, listed, check)
    except OSError as error:
        raise ArtefactError(f"{error.filename or directory}: cannot be read: {error.strerror}") from None
    return manifest


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, which vouches for itself: it is in canonical form and holds the hash of the rest of it.

    Raises:
        ArtefactError: it is missing, damaged or of another format.
    """
    if not path.is_file():
        raise ArtefactError(f"{path}: is missing; {path.parent} is not a bundle or a published generation")
    data = path.read_bytes()
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ArtefactError(f"{path}: is damaged (not a JSON object)")
    version = values.get("format")
    if isinstance(version, int) and version != FORMAT:
        raise ArtefactError(f"{path}: is of format {version}, this prerank ({__version__}) reads format {FORMAT}")
    rest = {key: value for key, value in values.items() if key != "sha256"}
    if _canonical(values).encode() != data or values.get("sha256") != _digest(rest):
        raise ArtefactError(f"{path}: is damaged (its own checksum does not fit)")
    return values


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(values).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
