"""Sealed directories: what is accepted, what is refused, and what a failure leaves behind."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from prerank.errors import ArtefactError
from prerank.publish.files import (
    MANIFEST,
    aside,
    content_hash,
    exclusive,
    install,
    new_generation,
    replace_text,
    seal,
    verify,
)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    directory = tmp_path / "sealed"
    (directory / "inner").mkdir(parents=True)
    (directory / "a.txt").write_text("alpha")
    (directory / "inner" / "b.bin").write_bytes(bytes(100))
    seal(directory, "some-generation", "fit")
    return directory


def test_manifest_lists_every_file(sealed: Path) -> None:
    manifest = verify(sealed)
    assert manifest["generation"] == "some-generation" and manifest["model"] == "fit"
    assert {name: facts["bytes"] for name, facts in manifest["files"].items()} == {"a.txt": 5, "inner/b.bin": 100}
    # sha256 of "alpha", from sha256sum
    assert manifest["files"]["a.txt"]["sha256"] == "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8"


def test_every_flipped_bit_of_the_manifest_is_refused(sealed: Path) -> None:
    path = sealed / MANIFEST
    intact = path.read_bytes()
    for bit in range(8 * len(intact)):
        damaged = bytearray(intact)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ArtefactError, match=r"manifest\.json"):
            verify(sealed)
    path.write_bytes(intact)
    verify(sealed)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"format": "1"}', "[" * 50_000])
def test_a_manifest_that_is_none(sealed: Path, text: str) -> None:
    (sealed / MANIFEST).write_text(text)
    with pytest.raises(ArtefactError, match=r"manifest\.json: is damaged"):
        verify(sealed)


def test_another_format_version_states_both(sealed: Path) -> None:
    values = json.loads((sealed / MANIFEST).read_text())
    (sealed / MANIFEST).write_text(json.dumps({**values, "format": 7}))
    with pytest.raises(ArtefactError, match=r"manifest\.json: is of format 7, this prerank \(.*\) reads format 1"):
        verify(sealed)


def test_additional_missing_and_changed_files_are_named(sealed: Path) -> None:
    (sealed / "inner" / "c.txt").write_text("")
    with pytest.raises(ArtefactError, match=r"c\.txt: is not in the manifest"):
        verify(sealed)
    (sealed / "inner" / "c.txt").unlink()
    (sealed / "a.txt").write_text("Alpha")
    with pytest.raises(ArtefactError, match=r"a\.txt: is damaged"):
        verify(sealed)
    (sealed / "a.txt").write_text("alph")
    with pytest.raises(ArtefactError, match=r"a\.txt: has 4 bytes instead of 5"):
        verify(sealed)
    (sealed / "a.txt").unlink()
    with pytest.raises(ArtefactError, match=r"a\.txt: is missing"):
        verify(sealed)


def test_a_directory_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="not a bundle or a published generation"):
        verify(tmp_path)


def test_aside_starts_empty_and_leaves_nothing(tmp_path: Path) -> None:
    work = tmp_path / ".part"
    (work / "left by a killed writer").mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), aside(work):
        assert list(work.iterdir()) == []
        (work / "half").write_text("x")
        raise ZeroDivisionError
    assert not work.exists()


def test_aside_keeps_what_can_be_resumed(tmp_path: Path) -> None:
    work = tmp_path / ".part"
    for name in ("store", "other"):
        (work / name).mkdir(parents=True)
    (work / "file").write_text("x")
    with pytest.raises(KeyboardInterrupt), aside(work, resume="store"):
        assert [entry.name for entry in work.iterdir()] == ["store"]
        raise KeyboardInterrupt
    assert (work / "store").exists()
    with aside(work, resume="store"):
        assert (work / "store").exists()
    assert not work.exists()


def test_aside_names_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="could not be written: No space left"), aside(tmp_path / ".part"):
        raise OSError(28, "No space left on device", "rows.npy")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match=r"could not be written: Not a directory"), aside(tmp_path / "file" / "x"):
        pass


def test_install_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with aside(tmp_path / ".part") as work, pytest.raises(ArtefactError, match="exists already"):
        install(work, tmp_path / "target")


def test_a_generation_is_named_by_time_and_content(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("1")
    first, again = new_generation(content_hash(tmp_path)), new_generation(content_hash(tmp_path))
    (tmp_path / "w").write_text("2")
    second = new_generation(content_hash(tmp_path))
    assert first.split("-")[1] == again.split("-")[1] != second.split("-")[1]
    assert len(first) == len("20261122T010203-0123abcd")


def test_replace_text_keeps_the_old_text_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "CURRENT"
    replace_text(path, "old\n")
    (tmp_path / ".CURRENT.part").write_text("half of a new o")  # a killed writer's
    assert path.read_text() == "old\n"
    replace_text(path, "new\n")
    assert path.read_text() == "new\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["CURRENT"]


def _hold(directory: Path, held: object, done: object) -> None:
    with exclusive(directory):
        held.set()  # type: ignore[attr-defined]
        done.wait(30)  # type: ignore[attr-defined]


def test_one_publisher_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held, done))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(ArtefactError, match="another publish is running"), exclusive(tmp_path):
            pass
    finally:
        done.set()
        other.join()
    with exclusive(tmp_path):
        pass
