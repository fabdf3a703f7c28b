"""Encoding a catalogue into an item store, a chunk at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from prerank.batch import Features
from prerank.errors import ArtefactError, DataError
from prerank.publish.bundle import Bundle
from prerank.publish.item_ids import Ints, Kind, column_keys
from prerank.publish.store import Precision

CHUNK = 65_536  # items encoded at a time
Progress = Callable[[int, int], None]


@torch.inference_mode()
def encode_catalogue(
    bundle: Bundle,
    items: pl.DataFrame,
    directory: Path,
    generation: str,
    *,
    dtype: Precision,
    progress: Progress | None,
) -> None:
    """Write the item store of a catalogue; memory beyond the table is that of a chunk and of the ids.

    Args:
        bundle: the model, in evaluation mode, and its encoder.
        items: the raw item table.
        directory: where the store goes; made here.
        generation: the generation that the store belongs to.
        dtype: how the rows are kept; an index column is always kept exactly.
        progress: called with (items done, items in all) after each chunk.

    Raises:
        DataError: an id is missing or occurs twice, or a column is missing.
        ArtefactError: a representation is not finite, or ``dtype`` cannot hold it.
    """
    schema, model, count = bundle.encoder.schema, bundle.model, items.height
    order, keys, kind = _ordered(items, schema.item_id)
    directory.mkdir()
    np.save(directory / "ids.npy", keys, allow_pickle=False)
    leading, width = model.index_columns, _width(bundle, items)
    remembered = model.behaviour_width if schema.history_of == "items" else 0
    index = np.empty((count, leading), dtype=np.uint16)
    with ExitStack() as files:
        rows = files.enter_context(_array(directory / "rows.npy", (count, width), dtype))
        if remembered:
            behaviours = files.enter_context(_array(directory / "behaviours.npy", (count + 1, remembered), dtype))
        for start in range(0, count, CHUNK):
            table = items[order[start : start + CHUNK]]
            features = bundle.encoder.encode("item", table).map(lambda tensor: tensor.to(bundle.device))
            values = model.item(features).cpu().numpy()
            index[start : start + CHUNK] = _whole_numbers(values[:, :leading])
            rows(_storable(values[:, leading:], dtype, table[schema.item_id]))
            if remembered:
                behaviours(_storable(model.behaviour(features).cpu().numpy(), dtype, table[schema.item_id]))
            if progress:
                progress(start + table.height, count)
        if remembered:
            behaviours(_unknown_behaviour(bundle).astype(dtype))
    if leading:
        small = index.max(initial=0) < 256
        np.save(directory / "index.npy", index.astype(np.uint8) if small else index, allow_pickle=False)
    if schema.title is not None:
        _write_titles(items, schema.item_id, schema.title, order, directory / "titles.arrow")
    facts = {
        "generation": generation,
        "kind": kind,
        "rows": count,
        "width": width,
        "dtype": dtype,
        "index_columns": leading,
        "behaviour_width": remembered,
    }
    (directory / "store.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _ordered(items: pl.DataFrame, item_id: str) -> tuple[Ints, Ints, Kind]:
    """The rows in the order of their keys, and the sorted keys."""
    keys, kind = column_keys(items[item_id])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    same = np.flatnonzero(keys[1:] == keys[:-1])
    if len(same):
        first, second = items[item_id][order[same[0] : same[0] + 2]]
        if first == second:
            raise DataError(f"items: {item_id} {first!r} occurs more than once; keep one row of each item")
        raise ArtefactError(f"items: {item_id} {first!r} and {second!r} have the same 64-bit hash; rename one")
    return order, keys, kind


def _width(bundle: Bundle, items: pl.DataFrame) -> int:
    """W: the columns of ``model.item`` without those of the index."""
    features = bundle.encoder.encode("item", items[:1]).map(lambda tensor: tensor.to(bundle.device))
    return bundle.model.item(features).shape[1] - bundle.model.index_columns


def _unknown_behaviour(bundle: Bundle) -> NDArray[Any]:
    """(1, D) what a history sees of an item that nobody knows."""
    features: Features = bundle.encoder.encode_values("history", [{}])
    behaviour: NDArray[Any] = bundle.model.behaviour(features.map(lambda t: t.to(bundle.device))).cpu().numpy()
    return behaviour


@contextmanager
def _array(path: Path, shape: tuple[int, int], dtype: Precision) -> Iterator[Callable[[NDArray[Any]], None]]:
    """An .npy file of a known shape that is appended to.

    Plain writes, since a memory map over a full disk kills the process instead of raising an error.
    """
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield lambda values: values.tofile(file)


def _storable(values: NDArray[Any], dtype: Precision, ids: pl.Series) -> NDArray[Any]:
    """(R, W) values in the type of the store."""
    limit = np.finfo(dtype).max
    fits = (np.abs(values) <= limit).all(axis=1)  # false for NaN, too
    if not fits.all():
        item = ids[int(np.argmin(fits))]
        fix = "publish as float32" if np.isfinite(values).all() else "the model is not fit to be published"
        raise ArtefactError(f"item {item!r}: its representation is not within +-{limit:g} ({dtype}); {fix}")
    return np.ascontiguousarray(values, dtype=dtype)


def _whole_numbers(values: NDArray[Any]) -> NDArray[np.uint16]:
    if not ((values >= 0) & (values < 65_536) & (values == np.floor(values))).all():
        raise ArtefactError("an index column of the model holds something else than whole numbers below 65,536")
    return values.astype(np.uint16)


def _write_titles(items: pl.DataFrame, item_id: str, title: str, order: Ints, path: Path) -> None:
    if title not in items.columns:
        raise DataError(f"item table: column {title!r}, the schema's title, is missing")
    table = items.select(pl.col(item_id).alias("id"), pl.col(title).cast(pl.String).alias("title"))
    # The oldest layout, which pyarrow maps; one batch, of which rows are taken directly.
    table[order].rechunk().write_ipc(path, compat_level=pl.CompatLevel.oldest())
