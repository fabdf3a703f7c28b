"""Publishing: encode the catalogue, prove that serving equals evaluation, switch in one step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl

from prerank.data.log import Dataset
from prerank.errors import ArtefactError
from prerank.publish.bundle import Bundle, write_bundle
from prerank.publish.encode import Progress, encode_catalogue
from prerank.publish.files import (
    aside,
    content_hash,
    exclusive,
    install,
    new_generation,
    refuse_existing,
    seal,
)
from prerank.publish.generation import GENERATIONS, STORE, locate, make_current, open_generation
from prerank.publish.parity import check_parity
from prerank.publish.precision import Precision


def publish_bundle(
    bundle: Bundle,
    dataset: Dataset,
    to: Path,
    dtype: Precision = "float32",
    progress: Progress | None = None,
    catalogue: pl.DataFrame | None = None,
) -> Path:
    """Publish a model and its encoded catalogue as the current generation of ``to``.

    Whatever fails before the switch, an error or a kill, leaves the generation that was being served in place. What a
    killed publish of the same model and catalogue has encoded is not encoded again.

    Args:
        bundle: the model, which is put into evaluation mode, and its encoder.
        dataset: the test part from which the parity gate draws.
        to: the published directory; earlier generations stay in it.
        dtype: how item representations are kept: float32, float16 or bfloat16 (half the bytes), int8 (a quarter).
        progress: called with (items encoded, items in all).
        catalogue: the items to encode, ids and item fields; those of the data set when None.

    Returns:
        The directory of the new generation.

    Raises:
        ArtefactError: served scores are not evaluation's, the model cannot be stored, ``to`` cannot be written, or
            another publish is running there.
        DataError: the catalogue has an item twice, or lacks a column.
    """
    bundle.model.eval()
    with exclusive(to), aside(to / GENERATIONS / ".part", resume=STORE) as work:
        write_bundle(bundle, work)
        content = content_hash(work)
        generation = new_generation(content)
        target = to / GENERATIONS / generation
        refuse_existing(target)
        items = dataset.items if catalogue is None else catalogue
        encode_catalogue(bundle, items.lazy(), work / STORE, generation, content, dtype=dtype, progress=progress)
        seal(work, generation, bundle.name)
        check_parity(open_generation(work), bundle, dataset if catalogue is None else dataset.with_items(catalogue))
        switch(to, work, target)
    return target


def switch(to: Path, work: Path, target: Path, before: Callable[[], None] = lambda: None) -> None:
    """Make the verified generation at ``work`` the current one of ``to``, as ``target``.

    Args:
        to: the published directory.
        work: the generation.
        target: its place.
        before: what is left to be done while no update can be written.
    """
    try:
        install(work, target)
        make_current(to, target.name, before)
    except BaseException:
        if not _is_current(to, target):
            shutil.rmtree(target, ignore_errors=True)
        raise


def _is_current(to: Path, generation: Path) -> bool:
    try:
        return locate(to) == generation
    except ArtefactError:
        return False
