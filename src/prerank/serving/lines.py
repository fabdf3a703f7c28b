"""Files of requests, one a line: requests as they are asked, and records of requests that were answered.

    {"user": {"user_id": 7}, "candidates": [50, 181], "k": 10}
    {"time": "...", "generation": "...", "request": {"user": ..., "candidates": ...}, "answer": {"ids": ..., ...}}

A record holds its request in the first form, and its answer as ``Ranked.content`` gives it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prerank.errors import RequestError
from prerank.serving.request import Request

PARTS = ("time", "generation", "request", "answer")


@dataclass(frozen=True)
class Line:
    """A line of a file.

    Attributes:
        place: the file and the number of the line, for messages.
        request: what was asked.
        record: the whole record; None where the line is a request alone.
    """

    place: str
    request: Request
    record: Mapping[str, Any] | None


def read_lines(file: Path) -> Iterator[Line]:
    """The lines of a file one by one, so that its length does not matter.

    Raises:
        RequestError: the file cannot be read, or a line is neither a request nor a record; line and field are named.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            for number, text in enumerate(lines, start=1):
                yield _line(f"{file}: line {number}", text)
    except (OSError, UnicodeDecodeError):
        raise RequestError(f"--requests {file}: cannot be read as a text file") from None


def _line(place: str, text: str) -> Line:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{place}: not valid JSON: {error}") from None
    record = content if isinstance(content, Mapping) and "request" in content else None
    try:
        if record is not None:
            _check(record)
        return Line(place, Request.read(content if record is None else record["request"]), record)
    except RequestError as error:
        raise RequestError(f"{place}: {error}") from None


def _check(record: Mapping[str, Any]) -> None:
    missing = [name for name in PARTS if name not in record]
    if missing:
        raise RequestError(f"{missing[0]}: is missing; a record has {', '.join(PARTS)}")
    if not isinstance(record["answer"], Mapping):
        raise RequestError(f"answer: expected an object, got {type(record['answer']).__name__}")
