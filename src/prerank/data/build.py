"""From a source's raw log to a data set: order events, place windows, make rows, split, audit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prerank.data.audit import audit, describe
from prerank.data.log import Dataset, Ints, RawLog, Rowids, Rows, Timelines
from prerank.data.protocol import Protocol
from prerank.data.sampling import NegativeSampler
from prerank.data.splits import hold_out, split_validation
from prerank.errors import DataError
from prerank.schema import Schema


@dataclass(frozen=True)
class Events:
    """A log's events in timeline order, as row numbers of the user and item tables.

    Attributes:
        ends: (E,) position in the timelines at which each event's history ends.
    """

    users: Rowids
    items: Rowids
    times: Ints
    ends: Ints
    labels: NDArray[np.uint8] | None
    context: pl.DataFrame | None


def build(raw: RawLog, protocol: Protocol) -> Dataset:
    """Make the data set that ``protocol`` describes.

    Raises:
        DataError: the source lacks what the protocol needs, or a part would be empty.
    """
    events = _keep(raw, protocol)
    users = _row_numbers(events["user"], raw.users[raw.schema.user_id], "user")
    items = _row_numbers(events["item"], raw.items[raw.schema.item_id], "item")
    order = _order(users, events["time"].to_numpy(), protocol)
    users, items, events = users[order], items[order], events[order]
    times = events["time"].to_numpy().astype(np.int64)

    behaviours = raw.items
    if raw.records is not None:
        behaviours, timelines = _record_timelines(raw.records, raw.users[raw.schema.user_id], raw.schema)
        ends = _ends_by_time(timelines, users, times)
    else:
        kept = events["behaviour"].to_numpy() if "behaviour" in events.columns else np.ones(len(users), dtype=bool)
        timelines = _timelines(users[kept], items[kept], times[kept], raw.users.height)
        ends = _ends_by_position(users, times, kept, strict=protocol.ties == "strict")

    context = events.select(field.name for field in raw.schema.context) if raw.schema.context else None
    ordered = Events(users, items, times, ends, _labels(events, protocol), context)
    rows, test = make_rows(ordered, protocol)
    if protocol.users == "has_history":
        visible = rows.ends > timelines.offsets[rows.users]
        rows, test = rows.take(visible), test[visible]
    elif protocol.users == "has_click":
        clicked = np.zeros(raw.users.height, dtype=bool)
        clicked[rows.users[rows.labels.any(axis=1)]] = True
        rows, test = rows.take(clicked[rows.users]), test[clicked[rows.users]]
    train, valid = split_validation(rows.take(~test), protocol)
    parts = {"train": train, "valid": valid, "test": rows.take(test)}
    for name, part in parts.items():
        if not len(part):
            raise DataError(f"{raw.name}: the {name} part is empty under protocol {protocol.name!r}; change test_size")
    dataset = Dataset(raw.name, raw.schema, protocol, raw.users, raw.items, behaviours, timelines, parts, facts={})
    return replace(dataset, facts={**describe(dataset), "leak_audit": audit(dataset)})


def sampler_for(dataset: Dataset) -> NegativeSampler:
    """The sampler over a data set whose labels are sampled: every behaviour is an interaction to avoid."""
    timelines = dataset.timelines
    users = np.repeat(np.arange(len(timelines.offsets) - 1, dtype=np.int32), np.diff(timelines.offsets))
    return _sampler(users, np.asarray(timelines.entries), dataset.protocol)


def make_rows(events: Events, protocol: Protocol) -> tuple[Rows, NDArray[np.bool_]]:
    """Rows of all parts and the mask of test rows.

    Sampled labels: every event but a user's first is a positive with ``protocol.negatives`` negatives.
    Otherwise every event is a row of one candidate with its own label.
    """
    if events.labels is not None:
        every = np.arange(len(events.users))
        return _rows(events, every, events.items[:, None], events.labels[:, None]), hold_out(
            events.users, events.times, protocol
        )
    position, remaining = _places(events.users)
    chosen = np.nonzero((position > 0) & (remaining == 0 if protocol.targets == "last" else True))[0]
    rng = np.random.default_rng(protocol.seed)
    sampler = _sampler(events.users, events.items, protocol)
    positives, users = events.items[chosen], events.users[chosen]
    candidates = np.concatenate([positives[:, None], sampler.draw(users, positives, protocol.negatives, rng)], axis=1)
    labels = np.zeros(candidates.shape, dtype=np.uint8)
    labels[:, 0] = 1
    return _rows(events, chosen, candidates, labels), hold_out(users, events.times[chosen], protocol)


def _keep(raw: RawLog, protocol: Protocol) -> pl.DataFrame:
    """The events that the protocol keeps, with the columns it needs."""
    needs = {"rating": "rating", "given": "label"}.get(protocol.labels)
    if protocol.drop_ratings:
        needs = needs or "rating"
    if needs and needs not in raw.events.columns:
        raise DataError(
            f"{raw.name}: protocol {protocol.name!r} needs a {needs} column in the events; this source has none"
        )
    events = raw.events
    if protocol.drop_ratings:
        events = events.filter(~pl.col("rating").is_in(protocol.drop_ratings))
    if protocol.labels == "sampled" and "behaviour" in events.columns and not events["behaviour"].all():
        raise DataError(
            f"{raw.name}: sampled labels need every event as behaviour; drop the behaviour column or give labels"
        )
    if not events.height:
        raise DataError(f"{raw.name}: no events left under protocol {protocol.name!r}")
    return events


def _labels(events: pl.DataFrame, protocol: Protocol) -> NDArray[np.uint8] | None:
    if protocol.labels == "given":
        return events["label"].to_numpy().astype(np.uint8)
    if protocol.labels == "rating":
        return (events["rating"].to_numpy() >= protocol.positive_rating).astype(np.uint8)
    return None


def _row_numbers(ids: pl.Series, table: pl.Series, what: str) -> Rowids:
    """Where each id stands in its table."""
    lookup = pl.DataFrame({"id": table, "row": np.arange(len(table), dtype=np.int32)})
    try:
        rows = pl.DataFrame({"id": ids}).join(lookup, on="id", how="left", maintain_order="left")["row"]
    except pl.exceptions.SchemaError:
        raise DataError(
            f"events: {what} ids are {ids.dtype}, in the {what} table {table.dtype}; use one type"
        ) from None
    if rows.null_count():
        missing = int(rows.is_null().arg_max() or 0)
        raise DataError(f"events, row {missing + 1}: {what} {ids[missing]!r} is not in the {what} table")
    return rows.to_numpy().astype(np.int32)


def _order(users: Rowids, times: Ints, protocol: Protocol) -> Ints:
    """The order by user and time; ties in file order, or in a drawn order."""
    shuffled = None
    if protocol.ties == "shuffled":
        shuffled = np.random.default_rng([protocol.seed, 1]).permutation(len(users))
        users, times = users[shuffled], times[shuffled]
    order = np.lexsort((times, users))  # stable: equal keys keep their order
    return order if shuffled is None else shuffled[order]


def _timelines(users: Rowids, entries: Rowids, times: Ints, count: int) -> Timelines:
    """Timelines from behaviours that are already ordered by user and time."""
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(users, minlength=count), out=offsets[1:])
    return Timelines(offsets, entries.astype(np.int32), times)


def _record_timelines(records: pl.DataFrame, ids: pl.Series, schema: Schema) -> tuple[pl.DataFrame, Timelines]:
    """The table of distinct behaviour records and the timelines that point into it."""
    fields = list(schema.history)
    distinct = records.select(fields).unique(maintain_order=True)
    numbered = distinct.with_row_index("_row")
    entries = records.join(numbered, on=fields, how="left", maintain_order="left", nulls_equal=True)["_row"]
    users = _row_numbers(records["user"], ids, "user")
    times = records["time"].to_numpy().astype(np.int64)
    order = np.lexsort((times, users))
    return distinct, _timelines(users[order], entries.to_numpy()[order], times[order], len(ids))


def _ends_by_time(timelines: Timelines, users: Rowids, times: Ints) -> Ints:
    """Number of behaviours, over all earlier users and strictly earlier times, before each event."""
    first = min(int(timelines.times.min(initial=0)), int(times.min(initial=0)))
    span = max(int(timelines.times.max(initial=0)), int(times.max(initial=0))) - first + 1
    owners = np.repeat(np.arange(len(timelines.offsets) - 1, dtype=np.int64), np.diff(timelines.offsets))
    return np.searchsorted(owners * span + (timelines.times - first), users.astype(np.int64) * span + (times - first))


def _ends_by_position(users: Rowids, times: Ints, kept: NDArray[np.bool_], strict: bool) -> Ints:
    """Number of kept behaviours before each event; with ``strict``, before the first event of the same time."""
    before: Ints = np.cumsum(kept) - kept
    if not strict:
        return before.astype(np.int64)
    fresh = np.ones(len(users), dtype=bool)
    fresh[1:] = (users[1:] != users[:-1]) | (times[1:] != times[:-1])
    return before[np.maximum.accumulate(np.where(fresh, np.arange(len(users)), 0))].astype(np.int64)


def _places(users: Rowids) -> tuple[Ints, Ints]:
    """Of each event in user order: how many of the user's events come before it, and how many after."""
    starts = np.searchsorted(users, users, side="left")
    stops = np.searchsorted(users, users, side="right")
    here = np.arange(len(users))
    return here - starts, stops - here - 1


def _sampler(users: Rowids, items: Rowids, protocol: Protocol) -> NegativeSampler:
    return NegativeSampler(users, items, np.unique(items), protocol.negatives_from)


def _rows(events: Events, chosen: Ints, candidates: Rowids, labels: NDArray[np.uint8]) -> Rows:
    context = events.context[chosen] if events.context is not None else None
    return Rows(events.users[chosen], events.ends[chosen], candidates, labels, events.times[chosen], context)
