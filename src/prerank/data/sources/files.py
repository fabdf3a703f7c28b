"""Finding and reading the files of a data set: plain, gzipped, in a sub-folder, or inside the archive as published."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from prerank.errors import DataError

DAMAGED = (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error)
CHUNK = 1 << 24


class FilesMissingError(DataError):
    """The folder does not hold the files that a source reads."""


@dataclass(frozen=True)
class Found:
    """A file, or a member of an archive."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        """The whole content, decompressed.

        Raises:
            DataError: the file or its archive is damaged.
        """
        try:
            if self.member:
                with zipfile.ZipFile(self.path) as archive:
                    return archive.read(self.member)
            content = self.path.read_bytes()
            return gzip.decompress(content) if self.path.suffix == ".gz" else content
        except DAMAGED as error:
            raise damaged(self.path, error) from None


def find(directory: Path, name: str, archive: str | None = None) -> Found | None:
    """The file ``name`` as it is or gzipped, in ``directory``, or in ``archive`` there, unpacked or not.

    Args:
        directory: the folder that the user named.
        name: the file's own name.
        archive: glob of the archive's file name, for example ``ml-1m.zip``, which unpacks to a folder ``ml-1m``.
    """
    folders = [directory] if archive is None else [directory, directory / Path(archive).stem]
    for folder in folders:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return Found(path)
    for path in sorted(directory.glob(archive)) if archive else ():
        member = _member(path, name)
        if member:
            return Found(path, member)
    return None


def find_all(directory: Path, names: Sequence[str], archive: str | None = None) -> list[Found]:
    """All files of the names, in their order; see ``find``.

    Raises:
        FilesMissingError: naming those that are not there.
    """
    found = {name: find(directory, name, archive) for name in names}
    missing = [name for name, file in found.items() if not file]
    if missing:
        raise FilesMissingError(f"{directory}: {', '.join(missing)} not found")
    return [file for file in found.values() if file]


def _member(archive: Path, name: str) -> str | None:
    try:
        with zipfile.ZipFile(archive) as opened:
            return next((member for member in opened.namelist() if member.split("/")[-1] == name), None)
    except zipfile.BadZipFile as error:
        raise damaged(archive, error) from None


def damaged(path: Path, error: BaseException) -> DataError:
    """What to say of an archive that cannot be unpacked."""
    reason = " ".join(str(error).split())
    return DataError(f"{path}: damaged or cut short ({reason}); fetch the file again")


def lines(path: Path) -> Iterator[list[bytes]]:
    """The lines of a plain or gzipped file in portions of about 16 MB, with a progress bar.

    Raises:
        DataError: the file is damaged.
    """
    with path.open("rb") as raw, progress(path.name, path.stat().st_size) as advance:
        stream = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        done = 0
        try:
            while portion := stream.readlines(CHUNK):
                yield portion
                advance(raw.tell() - done)
                done = raw.tell()
        except DAMAGED as error:
            raise damaged(path, error) from None


def split_lines(
    found: Found, separator: str, columns: Mapping[str, pl.DataType], header: str | None = None, encoding: str = "utf-8"
) -> pl.DataFrame:
    """A delimited text without quoting, whose separator may be longer than one character.

    Args:
        found: the file.
        separator: what stands between two fields.
        columns: name and type of every field, in the order of the file.
        header: what the first line must be, its fields separated by spaces; without it the first line is data.
        encoding: of the text.

    Raises:
        DataError: another header, a row with another number of fields, or a value that is not of the column's type.
    """
    try:
        content = found.read().decode(encoding).encode()
    except UnicodeDecodeError:
        raise DataError(f"{found}: is not {encoding} text") from None
    if header is not None:
        first, _, content = content.partition(b"\n")
        if first.decode().split() != header.split():
            raise DataError(f"{found}: the first line must name the columns {header}")
    if not content.strip():
        raise DataError(f"{found}: has no rows")
    text = pl.read_csv(
        content,
        has_header=False,
        separator="\x01",  # in no line, so that each becomes one value
        quote_char=None,
        infer_schema=False,
        new_columns=["line"],
    )
    fields = text.select(pl.col("line").str.strip_chars_end("\r").str.split(separator)).to_series()
    short = (fields.list.len() != len(columns)).arg_true()
    if len(short):
        row = short[0]
        raise DataError(f"{found}: row {row + 1} has {len(fields[row])} fields, {len(columns)} are expected")
    names = list(columns)
    table = pl.DataFrame({name: fields.list.get(i) for i, name in enumerate(names)})
    typed = table.with_columns(pl.col(name).cast(columns[name], strict=False) for name in names)
    for name in names:
        if typed[name].null_count():
            row = typed[name].is_null().arg_true()[0]
            value = table[name][row]
            raise DataError(f"{found}: row {row + 1}, column {name!r}: {value!r} is not {_expected(columns[name])}")
    return typed


def _expected(dtype: pl.DataType) -> str:
    return "a whole number" if dtype.is_integer() else "a number" if dtype.is_numeric() else "text"


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar over bytes, on a terminal only; gives the function that advances it."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
