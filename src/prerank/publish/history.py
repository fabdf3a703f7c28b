"""Which generations are published, and going back to one of them."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from prerank.errors import ArtefactError
from prerank.publish.files import MANIFEST, read_manifest, verify
from prerank.publish.generation import GENERATIONS, is_name, locate, make_current


@dataclass(frozen=True)
class Published:
    """A generation of a published directory.

    Attributes:
        name: of the generation.
        model: of which it is; None if its manifest is damaged.
        current: it is the one to serve.
    """

    name: str
    model: str | None
    current: bool


def history(directory: Path) -> list[Published]:
    """All generations, the newest first.

    Raises:
        ArtefactError: nothing is published there.
    """
    try:
        places = [place for place in (directory / GENERATIONS).iterdir() if is_name(place.name)]
    except OSError:
        raise ArtefactError(f"{directory}: is not a directory of published generations") from None
    current = _current(directory)
    return [
        Published(place.name, _model(place), place.name == current) for place in sorted(places, key=_age, reverse=True)
    ]


def previous(generations: list[Published], without: Container[str] = ()) -> str | None:
    """The generation that was published before the current one, if there is one.

    Args:
        generations: as ``history`` gives them.
        without: those that are known to be bad.
    """
    names = [one.name for one in generations]
    place = next((place for place, one in enumerate(generations) if one.current), len(names))
    return next((name for name in names[place + 1 :] if name not in without), None)


def roll_back(directory: Path, name: str | None = None, without: Container[str] = ()) -> str:
    """Make a generation the current one, after checking its files; whoever serves follows.

    Args:
        directory: what ``prerank publish`` has written.
        name: the generation; the one that was published before the current one if None.
        without: those that are known to be bad, among which none is chosen.

    Returns:
        The generation's name.

    Raises:
        ArtefactError: there is no such generation, it is damaged, or ``directory`` cannot be written. The current one
            stays current.
    """
    generations = history(directory)
    chosen = previous(generations, without) if name is None else name
    if chosen is None:
        raise ArtefactError(f"{directory}: has no generation before the current one; name one")
    if chosen not in [one.name for one in generations]:
        raise ArtefactError(f"{directory}: has no generation {chosen}; list them with: prerank generations")
    verify(directory / GENERATIONS / chosen)
    try:
        make_current(directory, chosen)
    except OSError as error:
        raise ArtefactError(f"{error.filename or directory}: could not be written: {error.strerror}") from None
    return chosen


def _current(directory: Path) -> str | None:
    try:
        return locate(directory).name
    except ArtefactError:
        return None


def _age(place: Path) -> tuple[str, int, str]:
    """Names begin with the second; of one second's, the manifest tells."""
    manifest = place / MANIFEST
    return place.name.partition("-")[0], manifest.stat().st_mtime_ns if manifest.exists() else 0, place.name


def _model(place: Path) -> str | None:
    try:
        return str(read_manifest(place / MANIFEST)["model"])
    except (ArtefactError, OSError, KeyError):
        return None
