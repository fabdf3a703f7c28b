"""Facts about a built data set, and the leak audit: what must hold, counted again from the stored arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerank.data.log import PARTS, Dataset, Rows
from prerank.errors import DataError

QUANTILES = (0, 10, 25, 50, 75, 90, 99, 100)


def describe(dataset: Dataset) -> dict[str, Any]:
    """Row counts, users, items, base rate and history lengths of each part."""
    parts: dict[str, Any] = {}
    offered = np.zeros(dataset.items.height, dtype=np.int64)
    for name in PARTS:
        rows = dataset.parts[name]
        items = np.bincount(rows.items.ravel(), minlength=dataset.items.height)
        offered += items
        lengths = np.minimum(rows.ends - dataset.timelines.offsets[rows.users], dataset.protocol.history)
        quantiles = np.percentile(lengths, QUANTILES, method="nearest").tolist()
        parts[name] = {
            "requests": len(rows),
            "rows": int(rows.items.size),
            "users": _count(np.bincount(rows.users)),
            "items": _count(items),
            "base_rate": float(rows.labels.mean()),
            "history_length": {
                "mean": float(lengths.mean()),
                **{f"p{q}": int(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
            },
        }
    if dataset.schema.history_of == "items":
        offered += np.bincount(dataset.timelines.entries, minlength=dataset.items.height)
    return {
        "users": dataset.users.height,
        "items": dataset.items.height,
        "items_with_events": _count(offered),
        "behaviours": len(dataset.timelines.entries),
        "parts": parts,
    }


def audit(dataset: Dataset) -> dict[str, int]:
    """Count every way in which a label could be seen too early.

    All counts but those named ``info_…`` must be zero; the latter follow from the protocol and are shown so that
    a reader can judge (a random split trains on rows later than test rows; a repeated purchase shows its item).

    Raises:
        DataError: a count that must be zero is not.
    """
    protocol, of_items = dataset.protocol, dataset.schema.history_of == "items"
    tied = "info_history_as_late_as_event" if of_items and protocol.ties != "strict" else "history_as_late_as_event"
    seen = "info_train_sees_test_event" if protocol.test == "rows" else "train_sees_test_event"
    counts: dict[str, int] = {"history_reaches_other_user": 0, "history_later_than_event": 0, tied: 0}
    for rows in dataset.parts.values():
        _add(counts, _late_histories(dataset, rows, tied))
        if of_items:
            _add(counts, _items_in_history(dataset, rows))
    if protocol.labels in ("sampled", "stages") and of_items:
        counts["negative_that_user_touched"] = _touched_negatives(dataset)
    if protocol.labels == "sampled" and protocol.ties != "strict":
        counts["request_in_two_parts"] = _shared_requests(dataset)
    counts[seen], counts["info_train_later_than_users_test"] = _train_after_test(dataset)
    broken = {name: count for name, count in counts.items() if count and not name.startswith("info_")}
    if broken:
        hint = "equal events at one time need --set ties=strict" if "history_holds_own_event" in broken else ""
        raise DataError(
            f"{dataset.name}: the leak audit failed: {broken}; {hint or 'this is a fault of the source or of prerank'}"
        )
    return counts


def _add(counts: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count


def _late_histories(dataset: Dataset, rows: Rows, tied: str) -> dict[str, int]:
    """Windows that leave their user's timeline, and windows whose last behaviour is not before the event."""
    timelines = dataset.timelines
    outside = (rows.ends < timelines.offsets[rows.users]) | (rows.ends > timelines.offsets[rows.users + 1])
    visible = ~outside & (rows.ends > timelines.offsets[rows.users])
    last, now = timelines.times[rows.ends[visible] - 1], rows.times[visible]
    return {
        "history_reaches_other_user": _count(outside),
        "history_later_than_event": _count(last > now),
        tied: _count(last == now),
    }


def _items_in_history(dataset: Dataset, rows: Rows) -> dict[str, int]:
    """Windows that end with their own event, and positives that the window holds from earlier: repeated consumption."""
    entries, times, items = dataset.timelines.entries, dataset.timelines.times, rows.items[:, 0]
    if not len(entries):
        return {}
    starts, stops = dataset.timelines.offsets[rows.users], dataset.timelines.offsets[rows.users + 1]

    def is_own_event(places: NDArray[np.int64]) -> NDArray[np.bool_]:
        same = entries.take(places, mode="clip") == items
        return np.asarray(same & (times.take(places, mode="clip") == rows.times))

    # Of two equal events in a row the second sees the first, and that is no leak as long as its own place follows.
    follows = (rows.ends < stops) & is_own_event(rows.ends)
    own = (rows.ends > starts) & is_own_event(rows.ends - 1) & ~follows
    repeated = np.zeros(len(rows), dtype=bool)
    for back in range(1, dataset.protocol.history + 1):
        places = rows.ends - back
        inside = places >= starts
        if not inside.any():
            break
        repeated |= inside & (entries.take(places, mode="clip") == items)
    return {
        "history_holds_own_event": _count(own),
        "info_target_item_in_history": _count(repeated & (rows.labels[:, 0] == 1)),
    }


def _touched_negatives(dataset: Dataset) -> int:
    """Sampled negatives that the user has a behaviour with, at any time; from events: that are the target."""
    parts = dataset.parts.values()
    if dataset.protocol.negatives_from == "events":
        return sum(_count((rows.items[:, 1:] == rows.items[:, :1]) & _sampled(rows)) for rows in parts)
    stride = dataset.items.height
    touched = dataset.timelines.owners.astype(np.int64) * stride + dataset.timelines.entries
    touched.sort()
    found = 0
    for rows in parts:
        keys = (rows.users[:, None].astype(np.int64) * stride + rows.items[:, 1:])[_sampled(rows)]
        found += _count(touched.take(np.searchsorted(touched, keys), mode="clip") == keys)
    return found


def _sampled(rows: Rows) -> NDArray[np.bool_]:
    """(R, C - 1) which of the candidates after the positive are random items."""
    drawn = np.ones_like(rows.items[:, 1:], dtype=bool)
    return drawn if rows.grades is None else rows.grades[:, 1:] == 0


def _shared_requests(dataset: Dataset) -> int:
    """Requests that stand in more than one part, or twice; a place in a timeline names a request."""
    stood = np.zeros(len(dataset.timelines.entries) + 1, dtype=np.int64)
    for rows in dataset.parts.values():
        stood += np.bincount(rows.ends.clip(0, len(stood) - 1), minlength=len(stood))
    return _count(stood > 1)


def _train_after_test(dataset: Dataset) -> tuple[int, int]:
    """Training and validation rows whose window holds a test target, and those later than their user's first test row.

    The first must be zero where the test is each user's end or the log's end; a random split has it by design.
    """
    test = dataset.parts["test"]
    first_test_end = np.full(dataset.users.height, np.iinfo(np.int64).max)
    first_test_time = first_test_end.copy()
    np.minimum.at(first_test_end, test.users, test.ends)
    np.minimum.at(first_test_time, test.users, test.times)
    seeing = later = 0
    for name in ("train", "valid"):
        rows = dataset.parts[name]
        seeing += _count(rows.ends > first_test_end[rows.users])
        later += _count(rows.times > first_test_time[rows.users])
    return seeing, later


def _count(found: NDArray[Any]) -> int:
    return int(np.count_nonzero(found))
