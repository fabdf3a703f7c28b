"""Encoding a catalogue into an item store: a chunk at a time, and on from where it was killed."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from prerank.batch import Features
from prerank.errors import ArtefactError, DataError
from prerank.publish.bundle import Bundle
from prerank.publish.item_ids import Ints, Kind, column_keys
from prerank.publish.match_columns import MatchColumns
from prerank.publish.precision import Precision, Vectors, limit
from prerank.publish.store_files import Encoded, StoreFiles

CHUNK = 65_536  # items encoded at a time
BEGUN, DONE = "encoding.json", "encoding.done"
Progress = Callable[[int, int], None]
Ids = Sequence[Any] | pl.Series


@torch.inference_mode()
def encode_catalogue(
    bundle: Bundle,
    items: pl.LazyFrame,
    directory: Path,
    generation: str,
    model: str,
    *,
    dtype: Precision,
    progress: Progress | None,
) -> None:
    """Write the item store of a catalogue, or finish one whose writing was killed.

    Memory is that of the ids and of two chunks: while the model computes one, on all cores, the next one is read and
    turned into ids. What is finished is used again if the model, the catalogue and the precision are the same; the
    result is then, bit by bit, that of an undisturbed run.

    Args:
        bundle: the model, in evaluation mode, and its encoder.
        items: the raw item table, which may be the scan of a file.
        directory: where the store goes; what is there of another store is removed.
        generation: the generation that the store belongs to.
        model: tells this model from others, the hash of its files.
        dtype: how the rows are kept; an index column is always kept exactly.
        progress: called with (items done, items in all) after each chunk.

    Raises:
        DataError: there is no item, an id is missing or occurs twice, or a column is missing.
        ArtefactError: a representation is not finite, or ``dtype`` cannot hold it.
    """
    schema = bundle.encoder.schema
    items = _needed(items, bundle)
    ids = items.select(schema.item_id).collect()[schema.item_id]
    count, starts = len(ids), range(0, len(ids), CHUNK)
    if not count:
        raise DataError("items: the catalogue is empty")
    identity = {"model": model, "items": _digest(items, starts), "dtype": dtype, "chunk": CHUNK}
    salt, done = _resume(directory, identity)
    keys, kind = _distinct_keys(ids, salt)
    del ids
    unknown = represent_behaviours(bundle, bundle.encoder.encode_values("history", [{}]), dtype, ["unknown"])
    files = _files(bundle, items, directory, count, dtype)
    if done is None:
        directory.mkdir()
        files.create()
        _begin(directory, identity, salt)
    todo = [start for start in starts if start not in (done or ())]
    finished = count - sum(min(CHUNK, count - start) for start in todo)
    for start, features, chunk_ids in _ahead(bundle, items, todo):
        files.write(start, represent(bundle, features, dtype, chunk_ids))
        with (directory / DONE).open("a", encoding="utf-8") as log:
            log.write(f"{start}\n")
        finished += features.rows
        if progress:
            progress(finished, count)
    if schema.title is not None:
        _write_titles(items, schema.item_id, schema.title, starts, directory / "titles.arrow")
    if bundle.model.reads_pairs and bundle.model.inputs.pair and bundle.encoder.match_fields:
        tables = (items.slice(start, CHUNK).collect() for start in starts)
        parts = (bundle.encoder.encode("match", table) for table in tables)
        MatchColumns.write(directory, parts, bundle.encoder.encode_values("match", [{}]))
    files.finish(generation, kind, salt, keys, unknown)
    for name in (BEGUN, DONE):
        (directory / name).unlink()


def represent(bundle: Bundle, features: Features, dtype: Precision, ids: Ids) -> Encoded:
    """Items as the model sees them, in the form of the store.

    Args:
        bundle: the model and its encoder.
        features: R rows of item fields.
        dtype: how they are kept.
        ids: the R items, for messages.

    Raises:
        ArtefactError: a representation is not finite, or ``dtype`` cannot hold it.
    """
    values = bundle.model.item(_on_device(features, bundle)).cpu()
    leading = bundle.model.index_columns
    return Encoded(
        index=_whole_numbers(values[:, :leading].numpy()),
        rows=_storable(values[:, leading:], dtype, ids),
        behaviours=represent_behaviours(bundle, features, dtype, ids),
    )


def represent_behaviours(bundle: Bundle, features: Features, dtype: Precision, ids: Ids) -> Vectors | None:
    """What a history sees of R items, in the form of the store; None where histories are records."""
    if not remembered(bundle):
        return None
    return _storable(bundle.model.behaviour(_on_device(features, bundle)).cpu(), dtype, ids)


def remembered(bundle: Bundle) -> int:
    """D: the width of a behaviour in the store, 0 where histories are records."""
    return bundle.model.behaviour_width if bundle.encoder.schema.history_of == "items" else 0


def _on_device(features: Features, bundle: Bundle) -> Features:
    return features.map(lambda tensor: tensor.to(bundle.device))


def _files(bundle: Bundle, items: pl.LazyFrame, directory: Path, count: int, dtype: Precision) -> StoreFiles:
    first = bundle.encoder.encode("item", items.head(1).collect())
    leading = bundle.model.index_columns
    width = bundle.model.item(_on_device(first, bundle)).shape[1] - leading
    return StoreFiles(directory, count, width, dtype, leading, remembered(bundle))


def _ahead(bundle: Bundle, items: pl.LazyFrame, starts: Sequence[int]) -> Iterator[tuple[int, Features, pl.Series]]:
    """Start, encoded features and ids of each chunk, prepared while the one before is being used."""

    def prepare(start: int) -> tuple[int, Features, pl.Series]:
        table = items.slice(start, CHUNK).collect()
        return start, bundle.encoder.encode("item", table), table[bundle.encoder.schema.item_id]

    with ThreadPoolExecutor(1) as thread:
        waiting = [thread.submit(prepare, start) for start in starts[:1]]
        for start in (*starts[1:], None):
            if waiting:
                ready = waiting.pop().result()
                if start is not None:
                    waiting.append(thread.submit(prepare, start))
                yield ready


def _needed(items: pl.LazyFrame, bundle: Bundle) -> pl.LazyFrame:
    """The columns of the catalogue that are read.

    Raises:
        DataError: one is missing.
    """
    schema = bundle.encoder.schema
    names = [schema.item_id, *(field.name for field in schema.item), *([schema.title] if schema.title else [])]
    present = items.collect_schema().names()
    for name in names:
        if name not in present:
            what = ", the schema's title," if name == schema.title else ""
            raise DataError(f"item table: column {name!r}{what} is missing; columns: {', '.join(present)}")
    return items.select(list(dict.fromkeys(names)))


def _distinct_keys(ids: pl.Series, salt: int) -> tuple[Ints, Kind]:
    keys, kind = column_keys(ids, salt)
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(np.diff(keys[order]) == 0)
    if len(same):
        first, second = ids[order[same[0] : same[0] + 2]]
        if first == second:
            raise DataError(f"items: {ids.name} {first!r} occurs more than once; keep one row of each item")
        raise ArtefactError(f"items: {ids.name} {first!r} and {second!r} have the same 64-bit hash; publish again")
    return keys, kind


def _digest(items: pl.LazyFrame, starts: range) -> str:
    """What tells this catalogue from others."""
    digest = hashlib.sha256()
    for start in starts:
        data = io.BytesIO()
        items.slice(start, starts.step).collect().rechunk().write_ipc(data)
        digest.update(data.getbuffer())
    return digest.hexdigest()


def _resume(directory: Path, identity: dict[str, Any]) -> tuple[int, set[int] | None]:
    """The salt, and the chunks that a killed run with the same outcome has written; None if there was none."""
    try:
        begun = json.loads((directory / BEGUN).read_text(encoding="utf-8"))
        salt = int(begun.pop("salt"))
    except (OSError, ValueError, KeyError, AttributeError):
        begun = None
    if begun != identity:
        shutil.rmtree(directory, ignore_errors=True)
        return secrets.randbits(63), None
    done = directory / DONE
    lines = done.read_text(encoding="utf-8").splitlines(keepends=True) if done.exists() else []
    return salt, {int(line) for line in lines if line.endswith("\n")}


def _begin(directory: Path, identity: dict[str, Any], salt: int) -> None:
    work = directory / f"{BEGUN}.part"
    work.write_text(json.dumps({**identity, "salt": salt}), encoding="utf-8")
    work.rename(directory / BEGUN)


def _storable(values: Tensor, dtype: Precision, ids: Ids) -> Vectors:
    """(R, W) values in the type of the store."""
    largest = limit(dtype)
    fits = (values.abs() <= largest).all(dim=1)  # false for NaN, too
    if not fits.all():
        item = ids[int(fits.int().argmin())]
        fix = "publish as float32" if torch.isfinite(values).all() else "the model is not fit to be published"
        raise ArtefactError(f"item {item!r}: its representation is not within +-{largest:g} ({dtype}); {fix}")
    return Vectors.store(values, dtype)


def _whole_numbers(values: NDArray[Any]) -> NDArray[np.uint16]:
    if not ((values >= 0) & (values < 65_536) & (values == np.floor(values))).all():
        raise ArtefactError("an index column of the model holds something else than whole numbers below 65,536")
    return values.astype(np.uint16)


def _write_titles(items: pl.LazyFrame, item_id: str, title: str, starts: range, path: Path) -> None:
    """Ids and titles, a batch for each chunk; the batches are mapped, and rows are taken directly."""
    whole = items.collect_schema()[item_id].is_integer()
    ids = pl.col(item_id).cast(pl.Int64) if whole else pl.col(item_id)
    table = items.select(ids.alias("id"), pl.col(title).cast(pl.String).alias("title"))
    types = table.collect_schema().to_frame().to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    with pa.ipc.new_file(str(path), types) as file:
        for start in starts:
            batch = table.slice(start, starts.step).collect()
            file.write_table(batch.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks())
