"""Disks that are full, or give errors, while publishing, going back and updating: nothing partial, nothing lost.

A full disk is a real one: a small file system in memory, which only root may mount. Errors are those of the system's
calls, each of which fails once.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.service.conftest import publish

from prerank.data.log import Dataset
from prerank.errors import ArtefactError, PrerankError
from prerank.publish.files import verify
from prerank.publish.generation import locate, open_generation
from prerank.publish.history import roll_back
from prerank.publish.updates import ItemUpdates

MEGABYTES = 8
STEP = 24 << 10  # bytes of room more each time


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of a few megabytes."""
    place = tmp_path_factory.mktemp("small")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def leave(disk: Path, room: int) -> Path:
    """Fill a disk but for so many bytes: the file that does it."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    status = os.statvfs(disk)
    os.posix_fallocate(fd := os.open(ballast, os.O_CREAT | os.O_WRONLY), 0, status.f_bavail * status.f_frsize - room)
    os.close(fd)
    return ballast


def whole(place: Path) -> set[str]:
    """Names of all generations, each of which is whole."""
    names = {path.name for path in (place / "generations").iterdir() if path.name != ".part"}
    for name in names:
        verify(place / "generations" / name, "full")
    return names


def test_publishing_onto_a_full_disk(small: Path, world: Dataset) -> None:
    place = small / "published"
    first = publish(world, place, 1)
    failed = 0
    for room in range(0, MEGABYTES << 20, STEP):
        ballast = leave(small, room)
        try:
            second = publish(world, place, 2)
            break
        except ArtefactError as error:
            assert "be written" in str(error) and "No space left on device" in str(error)
            failed += 1
        assert locate(place) == first and whole(place) == {first.name}
    assert failed > 3 and locate(place) == second and whole(place) == {first.name, second.name}
    ballast.unlink()
    shutil.rmtree(place)


def test_updating_on_a_full_disk(small: Path, world: Dataset) -> None:
    place = small / "updated"
    publish(world, place, 1)
    updates = ItemUpdates.open(place)
    item_id = updates.generation.bundle.encoder.schema.item_id
    there, number = 0, 0
    leave(small, 4 * 4096)
    while True:
        items = [{item_id: f"new-{number}-{each}"} for each in range(20)]
        try:
            updates.upsert(items)
        except ArtefactError as error:
            assert "could not be written: No space left on device" in str(error)
            break
        there, number = there + len(items), number + 1
        assert number < 1000

    def found() -> int:
        names = [f"new-{call}-{each}" for call in range(number + 1) for each in range(20)]
        return int(open_generation(locate(place), planned=False).store.lookup(names)[1].sum())

    assert there > 0 and found() == there  # what was answered is there, of what was not nothing
    (small / "ballast").unlink()
    updates.upsert(items)
    assert found() == there + len(items)
    shutil.rmtree(place)


class Failing:
    """The ``number``-th call of a function of ``os`` fails."""

    def __init__(self, name: str, number: int) -> None:
        self.real: Callable[..., object] = getattr(os, name)
        self.number = number
        self.calls = 0

    def __call__(self, *arguments: object, **named: object) -> object:
        self.calls += 1
        if self.calls == self.number:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "the disk")
        return self.real(*arguments, **named)


def calls_fail(name: str, work: Callable[[], object], check: Callable[[], None]) -> None:
    """Have a call fail, an early one, one in the middle, and each of the last; check each time; then do the work."""
    number = 1
    total = 0
    while number <= (total or 1):
        failing = Failing(name, number)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, name, failing)
            with pytest.raises(PrerankError) as caught:
                work()
        assert "\n" not in str(caught.value)
        check()
        if total == 0:
            total = calls_of(name, work)
            check()
            number = max(2, total // 2)
        else:
            number = max(number + 1, total - 3)
    work()


def calls_of(name: str, work: Callable[[], object]) -> int:
    """How often a function is called."""
    counting = Failing(name, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, counting)
        work()
    return counting.calls


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_publishing_onto_a_disk_with_errors(tmp_path: Path, world: Dataset, name: str) -> None:
    place = tmp_path / "published"
    first = publish(world, place, 1)

    def check() -> None:
        current = locate(place)
        assert whole(place) == {first.name, current.name}
        if current != first:  # done, or only the very last sync has failed
            roll_back(place, first.name)
            shutil.rmtree(current)

    calls_fail(name, lambda: publish(world, place, 2), check)
    assert len(whole(place)) == 2 and locate(place) != first


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_going_back_on_a_disk_with_errors(tmp_path: Path, world: Dataset, name: str) -> None:
    place = tmp_path / "published"
    names = {publish(world, place, seed).name for seed in (1, 2)}
    newest = locate(place).name

    def check() -> None:
        assert locate(place).name in names
        roll_back(place, newest)

    calls_fail(name, lambda: roll_back(place), check)
    assert locate(place).name in names - {newest}


def test_updating_on_a_disk_with_errors(tmp_path: Path, world: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "published"
    publish(world, place, 1)
    updates = ItemUpdates.open(place)
    item_id = updates.generation.bundle.encoder.schema.item_id

    def there(*names: str) -> list[bool]:
        found: list[bool] = open_generation(locate(place), planned=False).store.lookup(names)[1].tolist()
        return found

    for number in range(3):  # the log is new, has one record, has two
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", Failing("fsync", 1))
            with pytest.raises(ArtefactError, match="could not be written: Input/output error"):
                updates.upsert([{item_id: f"lost-{number}"}])
        updates.upsert([{item_id: f"new-{number}"}])
    assert there("new-0", "new-1", "new-2", "lost-0", "lost-1", "lost-2") == [True] * 3 + [False] * 3


def test_opening_from_a_disk_with_errors(tmp_path: Path, world: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "published"
    publish(world, place, 1)
    generation = locate(place)
    for file in sorted(path for path in generation.rglob("*") if path.is_file()):
        real = Path.open

        def broken(path: Path, *rest: object, **named: object) -> object:
            if path == file:  # noqa: B023 - called in this turn only
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return real(path, *rest, **named)  # type: ignore[call-overload]  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", broken)
            with pytest.raises(ArtefactError, match=f"{file.name}: cannot be read: Input/output error"):
                open_generation(generation)
    assert np.isfinite(open_generation(generation).logits({}, {}, [], np.arange(3))[0]).all()
