"""A log keeps whole records over any cut, and refuses any flipped bit but in what may be a killed append."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from prerank.errors import ArtefactError
from prerank.publish.update_log import HEAD, LogReader, append, framed, writing

RECORDS = [b"first", b"x" * 300, b"\0\0\0", b"last one"]
ENDS = [0]
for record in RECORDS:
    ENDS.append(ENDS[-1] + HEAD.size + len(record))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    append(tmp_path / "log", 0, RECORDS)
    return tmp_path / "log"


def test_records_come_once_and_in_order(path: Path) -> None:
    reader = LogReader(path)
    assert reader.grown() and reader.read() == RECORDS and not reader.grown() and reader.read() == []
    append(path, reader.end, [b"more"])
    assert reader.grown() and reader.read() == [b"more"]
    assert LogReader(path, ENDS[2]).read() == [*RECORDS[2:], b"more"]


def test_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    reader = LogReader(tmp_path / "log")
    assert not reader.grown() and reader.read() == []
    append(tmp_path / "log", 0, [b"now"])
    assert reader.grown() and reader.read() == [b"now"]


def test_cut_anywhere_the_whole_records_are_left_and_the_next_append_follows_them(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        reader = LogReader(path)
        kept = [record for record, end in zip(RECORDS, ENDS[1:], strict=True) if end <= length]
        assert reader.read() == kept and not reader.grown()
        append(path, reader.end, [b"next"])
        assert reader.grown() and reader.read() == [b"next"]
        assert LogReader(path).read() == [*kept, b"next"]


def test_zeros_that_a_system_crash_left_are_no_record(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(500))
    assert LogReader(path).read() == RECORDS


def test_every_flipped_bit_is_refused_with_its_place(path: Path) -> None:
    whole = path.read_bytes()
    for bit in range(8 * (ENDS[-1] - len(RECORDS[-1]))):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        begin = max(end for end in ENDS if end <= bit // 8)
        with pytest.raises(ArtefactError, match=f"log: is damaged at byte {begin};"):
            LogReader(path).read()
    # In the payload of the very last record it cannot be told from an append that a crash left half on disk.
    damaged = bytearray(whole)
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert LogReader(path).read() == RECORDS[:-1]


def test_a_log_that_became_shorter_is_damaged(path: Path) -> None:
    reader = LogReader(path)
    reader.read()
    os.truncate(path, ENDS[2])
    with pytest.raises(ArtefactError, match="shorter than it was"):
        reader.read()


def test_a_failed_append_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ArtefactError, match="log: could not be written: No space left"):
        append(path, len(before), [b"more"])
    assert path.read_bytes() == before


def test_a_record_by_hand() -> None:
    # CRC-32 of "123456789" is cbf43926, the check value of its definition (ITU-T V.42).
    assert framed(b"123456789")[:12] == b"PRUL" + (9).to_bytes(4, "little") + 0xCBF43926.to_bytes(4, "little")
    assert framed(b"123456789")[16:] == b"123456789"


def test_writers_take_turns(tmp_path: Path) -> None:
    inside: list[int] = []

    def write(number: int) -> None:
        with writing(tmp_path / "logs"):
            inside.append(number)
            assert inside[-1] == number and len(inside) % 2 == 1
            inside.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside[::2] == inside[1::2] and len(inside) == 16
