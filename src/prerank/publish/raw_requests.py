"""Rows of a data set as a caller would ask them: raw values, as they come before any encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prerank.data.log import Dataset, Rows
from prerank.schema import Field


@dataclass(frozen=True)
class RawRequest:
    """One user at a moment.

    Attributes:
        user: raw values of the user fields.
        context: raw values of the context fields.
        past: the visible behaviours, oldest first: item ids, or mappings of history fields.
    """

    user: Mapping[str, Any]
    context: Mapping[str, Any]
    past: list[Any]


def raw_requests(dataset: Dataset, rows: Rows, length: int) -> list[RawRequest]:
    """Each of R rows without its candidates, with the last ``length`` behaviours before it."""
    schema = dataset.schema
    entries, lengths = dataset.timelines.windows(rows.users, rows.ends, length)
    past, stops = _raw_behaviours(dataset, entries), np.cumsum(lengths)
    return [
        RawRequest(
            user=_raw(dataset.users, schema.user, int(user)),
            context={} if rows.context is None else _raw(rows.context, schema.context, number),
            past=past[stops[number] - lengths[number] : stops[number]],
        )
        for number, user in enumerate(rows.users)
    ]


def _raw(table: pl.DataFrame, fields: Sequence[Field], row: int) -> Mapping[str, Any]:
    return table.select(field.name for field in fields).row(row, named=True)


def _raw_behaviours(dataset: Dataset, entries: NDArray[np.int64]) -> list[Any]:
    if dataset.schema.history_of == "items":
        return dataset.items[dataset.schema.item_id][entries].to_list()
    return dataset.behaviours.select(dataset.schema.history)[entries].to_dicts()
