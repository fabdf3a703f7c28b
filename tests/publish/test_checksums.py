"""Files beyond a block are checked block by block, and the largest ones by samples where they are too large."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from prerank.errors import ArtefactError
from prerank.publish import checksums
from prerank.publish.files import seal, verify


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 100 blocks and a bit, and one of half a block."""
    monkeypatch.setattr(checksums, "BLOCK", 64)
    (tmp_path / "large").write_bytes(bytes(number % 251 for number in range(6410)))
    (tmp_path / "small").write_bytes(bytes(32))
    seal(tmp_path, "g", "fit")
    return tmp_path


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("offset", [0, 63, 64, 3000, 6399, 6400, 6409])
def test_damage_names_the_range_of_bytes(sealed: Path, offset: int) -> None:
    verify(sealed)
    flip(sealed / "large", offset)
    first, last = offset // 64 * 64, min(6409, offset // 64 * 64 + 63)
    with pytest.raises(ArtefactError, match=f"large: is damaged .the SHA-256 of bytes {first} to {last} is not"):
        verify(sealed)


def test_beyond_a_second_of_hashing_the_largest_files_are_sampled(
    sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "WHOLE", 1000)
    drawn = iter(range(1, 10_000))
    monkeypatch.setattr(secrets, "randbelow", lambda count: next(drawn) % count)
    flip(sealed / "large", 64 * 40)
    verify(sealed)  # blocks 0, 100 and 1 to 16
    verify(sealed)  # 17 to 32
    with pytest.raises(ArtefactError, match="large: is damaged"):
        verify(sealed)  # 33 to 48
    with pytest.raises(ArtefactError, match="large: is damaged"):
        verify(sealed, "full")


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b"x" + data[1:]])
def test_sampling_always_sees_the_size_and_both_ends(
    sealed: Path, monkeypatch: pytest.MonkeyPatch, change: object
) -> None:
    monkeypatch.setattr(checksums, "WHOLE", 0)
    data = (sealed / "large").read_bytes()
    (sealed / "large").write_bytes(change(data))  # type: ignore[operator]
    with pytest.raises(ArtefactError, match=r"large: (is damaged|has 64)"):
        verify(sealed)


def test_small_files_are_never_sampled(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "WHOLE", 0)
    flip(sealed / "small", 20)
    with pytest.raises(ArtefactError, match="small: is damaged"):
        verify(sealed)
