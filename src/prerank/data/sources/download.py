"""Official downloads: size and checksum shown, progress, resumed where they broke off, verified, then renamed."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal

from prerank.data.sources.files import progress
from prerank.errors import DataError

BLOCK = 1 << 18


@dataclass(frozen=True)
class Download:
    """A published file.

    Attributes:
        url: where it is.
        file: its name in the folder.
        size: bytes, where published.
        checksum: ``md5:…`` or ``sha256:…``, where published.
    """

    url: str
    file: str
    size: int | None = None
    checksum: str | None = None


def fetch(download: Download, directory: Path) -> Path:
    """Fetch a file into the folder; one that is there already is only verified.

    What arrived of a transfer that breaks off stays in ``<file>.part``, and the next call asks for the rest (HTTP
    Range). Where no checksum is published, the SHA-256 of what arrived is written to ``<file>.sha256``.

    Raises:
        DataError: offline, refused by the server, broken off, or not the published size or checksum.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    target, part = directory / download.file, directory / f"{download.file}.part"
    if target.exists():
        problem = _problem(download, target)
        if problem:
            raise DataError(f"{target}: {problem}; remove it and try again")
        console.print(f"{target}: is there already")
        return target
    size = decimal(download.size) if download.size else "size not published"
    console.print(f"{download.url} ({size}; {download.checksum or 'no checksum published'})")
    directory.mkdir(parents=True, exist_ok=True)
    _transfer(download, part)
    problem = _problem(download, part)
    if problem:
        part.unlink()
        raise DataError(
            f"{download.url}: what arrived is not the published file ({problem}); it was removed, try again"
        )
    if not download.checksum:
        (directory / f"{download.file}.sha256").write_text(f"{_digest(part, 'sha256')}  {download.file}\n", "utf-8")
    return part.replace(target)


def _transfer(download: Download, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(download.url, headers={"Range": f"bytes={have}-"} if have else {})
    by_hand = f"put {download.file} into {part.parent} by hand"
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                have = 0  # the server sends all of it again
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            with part.open("ab" if have else "wb") as file, progress(download.file, total) as advance:
                advance(have)
                _copy(response, file.write, advance)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return  # all of it had arrived already
            part.unlink()
            raise DataError(f"{download.url}: is shorter than {part}; that was removed, try again") from None
        raise DataError(f"{download.url}: the server answers {error.code} {error.reason}; {by_hand}") from None
    except urllib.error.URLError as error:
        raise DataError(f"{download.url}: cannot be reached ({error.reason}); {by_hand}") from None
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{download.url}: broke off ({error}); the same command goes on from there") from None
    arrived = part.stat().st_size
    if total and arrived < total:
        raise DataError(
            f"{download.url}: broke off at {arrived:,} of {total:,} bytes; the same command goes on from there"
        )


def _copy(response: http.client.HTTPResponse, write: Callable[[bytes], int], advance: Callable[[int], None]) -> None:
    while block := response.read(BLOCK):
        write(block)
        advance(len(block))


def _problem(download: Download, path: Path) -> str | None:
    """How a file differs from the published one."""
    arrived = path.stat().st_size
    if download.size and arrived != download.size:
        return f"{arrived:,} bytes, {download.size:,} are published"
    if download.checksum:
        kind, _, published = download.checksum.partition(":")
        found = _digest(path, kind)
        if found != published:
            return f"{kind} {found}, {published} is published"
    return None


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
