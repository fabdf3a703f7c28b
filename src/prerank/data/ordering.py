"""A source's raw log checked, its ids as row numbers, its events and records in timeline order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from prerank.data.log import Ints, RawLog, Rowids
from prerank.data.protocol import Protocol
from prerank.errors import DataError


def ordered_events(raw: RawLog, protocol: Protocol) -> pl.DataFrame:
    """The events that the protocol keeps, by user and time, with the columns that it needs.

    ``user`` and ``item`` are row numbers of their tables, 4 bytes each. Ties are in file order, or in a drawn order.

    Raises:
        DataError: a column is missing, a value is missing or wrong, or no event is left.
    """
    schema, needed = raw.schema, _needed(raw, protocol)
    context = [field.name for field in (*schema.context, *schema.given_pairs)]
    _check_columns(raw, [*needed, *context])
    _check_values(raw.events.select("time", *needed), f"{raw.name}: events")
    events = raw.events.select(
        _row_numbers(raw.events["user"], raw.users[schema.user_id], f"{raw.name}: events"),
        _row_numbers(raw.events["item"], raw.items[schema.item_id], f"{raw.name}: events"),
        pl.col("time").cast(pl.Int64),
        *needed,
        *context,
    )
    if protocol.drop_ratings:
        events = events.filter(~pl.col("rating").is_in(protocol.drop_ratings))
    if not events.height:
        raise DataError(f"{raw.name}: no events left under protocol {protocol.name!r}")
    users, times = events["user"].to_numpy(), events["time"].to_numpy()
    if protocol.ties != "shuffled":
        return events[_order(users, times)]
    shuffled = np.random.default_rng([protocol.seed, 1]).permutation(len(users))
    return events[shuffled[_order(users[shuffled], times[shuffled])]]


def ordered_records(raw: RawLog, records: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The table of distinct behaviours, and the records by user and time: ``user``, ``time``, ``entry``.

    ``user`` is a row number of the user table, ``entry`` one of the table of behaviours.

    Raises:
        DataError: a time is missing or of a wrong type, or a user is not in the user table.
    """
    _check_values(records.select("time"), f"{raw.name}: records")
    fields = list(raw.schema.history)
    behaviours = records.select(fields).unique(maintain_order=True)
    numbered = behaviours.with_columns(entry=pl.int_range(pl.len(), dtype=pl.Int32))
    rows = records.select(
        _row_numbers(records["user"], raw.users[raw.schema.user_id], f"{raw.name}: records"),
        pl.col("time").cast(pl.Int64),
        records.join(numbered, on=fields, how="left", maintain_order="left", nulls_equal=True)["entry"],
    )
    return behaviours, rows[_order(rows["user"].to_numpy(), rows["time"].to_numpy())]


def _order(users: Rowids, times: Ints) -> Ints:
    return np.lexsort((times, users))  # stable: equal keys keep their order


def _needed(raw: RawLog, protocol: Protocol) -> list[str]:
    """The columns of the events that the protocol reads, besides user, item, time and context."""
    of_stages = "stage" if "stage" in raw.events.columns else "label"  # a click is a stage, too
    needed = {"sampled": [], "rating": ["rating"], "given": ["label"], "stages": [of_stages]}[protocol.labels]
    if protocol.drop_ratings and "rating" not in needed:
        needed.append("rating")
    for name in needed:
        if name not in raw.events.columns:
            wanted = "stage or label" if protocol.labels == "stages" and name == "label" else name
            raise DataError(
                f"{raw.name}: protocol {protocol.name!r} needs a {wanted} column in the events; this source has none"
            )
    if raw.schema.given_pairs and protocol.labels in ("sampled", "stages"):
        raise DataError(
            f"{raw.name}: pair field {raw.schema.given_pairs[0].name!r} has values for the events only and sampled "
            "negatives have none; use labels=given or labels=rating, or a pair field with match"
        )
    if raw.records is None and "behaviour" in raw.events.columns:
        needed.append("behaviour")
    subset = raw.records is not None or ("behaviour" in needed and not raw.events["behaviour"].all())
    if protocol.labels == "sampled" and subset:
        raise DataError(f"{raw.name}: sampled labels need every event, and nothing else, in the history; give labels")
    return needed


def _check_columns(raw: RawLog, of_events: Sequence[str]) -> None:
    schema = raw.schema
    expected = {
        "users": (raw.users, [schema.user_id, *(field.name for field in schema.user)]),
        "items": (raw.items, [schema.item_id, *(field.name for field in schema.item)]),
        "events": (raw.events, ["user", "item", "time", *of_events]),
    }
    if raw.records is not None:
        expected["records"] = (raw.records, ["user", "time", *schema.history])
    for name, (table, columns) in expected.items():
        for column in columns:
            if column not in table.columns:
                have = ", ".join(table.columns)
                raise DataError(f"{raw.name}: {name}: column {column!r} is missing; columns: {have}")


def _check_values(columns: pl.DataFrame, place: str) -> None:
    """Refuse what would silently become another number."""
    for column in columns.get_columns():
        wrong, reason = column.is_null(), "is missing"
        if column.name == "time" and not column.dtype.is_integer():
            raise DataError(f"{place}, column 'time': is {column.dtype}; whole numbers are expected")
        if column.dtype.is_float():
            wrong = wrong | column.is_nan()
        if column.name == "label":
            wrong, reason = ~column.cast(pl.Float64, strict=False).is_in([0.0, 1.0]).fill_null(False), "must be 0 or 1"
        if wrong.any():
            row = wrong.arg_max() or 0
            raise DataError(f"{place}, row {row + 1}, column {column.name!r}: {column[row]!r} {reason}")


def _row_numbers(column: pl.Series, ids: pl.Series, place: str) -> pl.Series:
    """Where the values of a column stand among the ids of their own table."""
    twice = ids.is_duplicated()
    if twice.any():
        row = twice.arg_max() or 0
        raise DataError(f"{column.name} table, row {row + 1}, column {ids.name!r}: {ids[row]!r} occurs twice")
    lookup = pl.DataFrame({column.name: ids, "row": np.arange(len(ids), dtype=np.int32)})
    try:
        rows = column.to_frame().join(lookup, on=column.name, how="left", maintain_order="left")["row"]
    except pl.exceptions.SchemaError:
        reason = f"is {column.dtype}, {ids.name!r} of the {column.name}s is {ids.dtype}; use one type"
        raise DataError(f"{place}, column {column.name!r}: {reason}") from None
    if rows.null_count():
        row = rows.is_null().arg_max() or 0
        raise DataError(f"{place}, row {row + 1}, column {column.name!r}: {column[row]!r} is not in the {column.name}s")
    return rows.alias(column.name)
