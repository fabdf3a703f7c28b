"""From a source's raw log to a data set: place windows, make rows, split, audit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prerank.data.audit import audit, describe
from prerank.data.log import PARTS, Dataset, Ints, RawLog, Rowids, Rows, Timelines
from prerank.data.ordering import ordered_events, ordered_records
from prerank.data.protocol import Protocol
from prerank.data.sampling import NegativeSampler
from prerank.data.splits import choose_validation, hold_out
from prerank.data.stages import staged
from prerank.errors import DataError


@dataclass(frozen=True)
class Events:
    """A log's events in timeline order, as row numbers of the user and item tables.

    Attributes:
        ends: (E,) position in the timelines at which each event's history ends.
        labels: (E,) 1 for positive, or None where they are sampled.
        stages: (E,) how far each event's item came, or None unless the protocol reads stages.
    """

    users: Rowids
    items: Rowids
    times: Ints
    ends: Ints
    labels: NDArray[np.uint8] | None
    context: pl.DataFrame | None
    pairs: pl.DataFrame | None = None
    stages: Ints | None = None


def build(raw: RawLog, protocol: Protocol) -> Dataset:
    """Make the data set that ``protocol`` describes.

    Raises:
        DataError: the source lacks what the protocol needs, a value is missing or wrong, or a part would be empty.
    """
    behaviours, timelines, parts = _make_parts(raw, protocol)
    for name, rows in parts.items():
        if not len(rows):
            keys = "test_size" if name == "test" else "test_size or validation"
            raise DataError(f"{raw.name}: the {name} part is empty under protocol {protocol.name!r}; change {keys}")
    dataset = Dataset(raw.name, raw.schema, protocol, raw.users, raw.items, behaviours, timelines, parts, facts={})
    return replace(dataset, facts={**describe(dataset), "leak_audit": audit(dataset)})


def sampler_for(dataset: Dataset) -> NegativeSampler:
    """The sampler over a data set whose labels are sampled: every behaviour is an interaction to avoid."""
    return _sampler(dataset.timelines.owners, np.asarray(dataset.timelines.entries), dataset.protocol)


def make_rows(events: Events, protocol: Protocol) -> tuple[Rows, NDArray[np.bool_]]:
    """Rows of all parts and the mask of test rows.

    Sampled labels: every event but a user's first is a positive with ``protocol.negatives`` negatives. Stages: every
    event of the highest stage is one, with candidates that came less far. Otherwise every event is a row of one
    candidate with its own label.
    """
    users = events.users
    if events.stages is not None:
        return _staged_rows(events, events.stages, protocol)
    if events.labels is not None:
        rows = _rows(events, slice(None), events.items[:, None], events.labels[:, None])
        return rows, hold_out(users, events.times, protocol)
    same_user = users[1:] == users[:-1]
    chosen = np.r_[False, same_user]
    if protocol.targets == "last":
        chosen &= np.r_[~same_user, True]
    places = np.flatnonzero(chosen)
    positives, users = events.items[places], users[places]
    rng = np.random.default_rng(protocol.seed)
    negatives = _sampler(events.users, events.items, protocol).draw(users, positives, protocol.negatives, rng)
    candidates = np.concatenate([positives[:, None], negatives], axis=1)
    labels = np.zeros(candidates.shape, dtype=np.uint8)
    labels[:, 0] = 1
    return _rows(events, places, candidates, labels), hold_out(users, events.times[places], protocol)


def _staged_rows(events: Events, stages: Ints, protocol: Protocol) -> tuple[Rows, NDArray[np.bool_]]:
    sampler = _sampler(events.users, events.items, protocol)
    rng = np.random.default_rng(protocol.seed)
    drawn = staged(
        events.users, events.items, events.times, stages, sampler, protocol.per_stage, protocol.negatives, rng
    )
    labels = np.zeros(drawn.items.shape, dtype=np.uint8)
    labels[:, 0] = 1
    rows = replace(_rows(events, drawn.places, drawn.items, labels), grades=drawn.grades)
    return rows, hold_out(rows.users, rows.times, protocol)


def _make_parts(raw: RawLog, protocol: Protocol) -> tuple[pl.DataFrame, Timelines, dict[str, Rows]]:
    """The behaviour table, the timelines that point into it, and the rows of each part."""
    log = ordered_events(raw, protocol)
    users, items, times = (log[name].to_numpy() for name in ("user", "item", "time"))
    if raw.records is None:
        behaviours = raw.items
        visible = _visible(log, protocol)
        timelines = _timelines(users[visible], items[visible], times[visible], raw.users.height)
        ends = _ends_by_position(users, times, visible, strict=protocol.ties == "strict")
    else:
        behaviours, records = ordered_records(raw, raw.records)
        owners, entries, moments = (records[name].to_numpy() for name in ("user", "entry", "time"))
        timelines = _timelines(owners, entries, moments, raw.users.height)
        ends = _ends_by_time(timelines, users, times)
    context = log.select(field.name for field in raw.schema.context) if raw.schema.context else None
    pairs = log.select(field.name for field in raw.schema.given_pairs) if raw.schema.given_pairs else None
    events = Events(users, items, times, ends, _labels(log, protocol), context, pairs, _stages(log, protocol))
    rows, test = make_rows(events, protocol)
    kept = _requested(rows, timelines, protocol)
    train = np.flatnonzero(kept & ~test)
    valid = choose_validation(rows.users[train], rows.times[train], protocol)
    places = (train[~valid], train[valid], np.flatnonzero(kept & test))
    return behaviours, timelines, {part: rows.take(chosen) for part, chosen in zip(PARTS, places, strict=True)}


def _labels(log: pl.DataFrame, protocol: Protocol) -> NDArray[np.uint8] | None:
    if protocol.labels == "given":
        return log["label"].cast(pl.UInt8).to_numpy()
    if protocol.labels == "rating":
        return (log["rating"].to_numpy() >= protocol.positive_rating).astype(np.uint8)
    return None


def _stages(log: pl.DataFrame, protocol: Protocol) -> Ints | None:
    if protocol.labels != "stages":
        return None
    return np.asarray(log["stage" if "stage" in log.columns else "label"].cast(pl.Int64).to_numpy())


def _visible(log: pl.DataFrame, protocol: Protocol) -> NDArray[np.bool_]:
    """(E,) which events belong to histories: as the source says, else all, or of stages the highest."""
    if "behaviour" in log.columns:
        return log["behaviour"].to_numpy()
    stages = _stages(log, protocol)
    return np.ones(log.height, dtype=bool) if stages is None else stages == stages.max()


def _requested(rows: Rows, timelines: Timelines, protocol: Protocol) -> NDArray[np.bool_]:
    """(R,) true for the requests that ``protocol.users`` keeps."""
    match protocol.users:
        case "all":
            return np.ones(len(rows), dtype=bool)
        case "has_history":
            return np.asarray(rows.ends > timelines.offsets[rows.users])
        case "has_click":
            return np.isin(rows.users, rows.users[rows.labels.any(axis=1)])


def _timelines(users: Rowids, entries: Rowids, times: Ints, count: int) -> Timelines:
    """Timelines from behaviours that are already ordered by user and time."""
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(users, minlength=count), out=offsets[1:])
    return Timelines(offsets, entries, times)


def _ends_by_time(timelines: Timelines, users: Rowids, times: Ints) -> Ints:
    """Where each event's strictly earlier behaviours end: every event's own timeline bisected, all at once."""
    low: Ints = timelines.offsets[users]
    high: Ints = timelines.offsets[users + 1]
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) // 2
        undecided = low < high
        earlier = timelines.times[np.minimum(middle, len(timelines.times) - 1)] < times
        np.copyto(low, middle + 1, where=undecided & earlier)
        np.copyto(high, middle, where=undecided & ~earlier)
    return low


def _ends_by_position(users: Rowids, times: Ints, visible: NDArray[np.bool_], strict: bool) -> Ints:
    """Number of visible behaviours before each event; with ``strict``, before the first event of the same time."""
    before: Ints = np.cumsum(visible) - visible
    if not strict:
        return before
    fresh = np.r_[True, (users[1:] != users[:-1]) | (times[1:] != times[:-1])]
    of_group: Ints = np.cumsum(fresh) - 1
    return np.asarray(before[fresh][of_group])


def _sampler(users: Rowids, items: Rowids, protocol: Protocol) -> NegativeSampler:
    catalogue = np.flatnonzero(np.bincount(items)).astype(np.int32)
    return NegativeSampler(users, items, catalogue, protocol.negatives_from)


def _rows(events: Events, chosen: Ints | slice, candidates: Rowids, labels: NDArray[np.uint8]) -> Rows:
    context = events.context[chosen] if events.context is not None else None
    pairs = events.pairs[chosen] if events.pairs is not None else None
    return Rows(events.users[chosen], events.ends[chosen], candidates, labels, events.times[chosen], context, pairs)
