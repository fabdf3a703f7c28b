"""Facts about a built data set, and the leak audit: what must hold, counted again from the stored arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from prerank.data.log import PARTS, Dataset, Rows
from prerank.errors import DataError

QUANTILES = (0, 10, 25, 50, 75, 90, 99, 100)


def describe(dataset: Dataset) -> dict[str, Any]:
    """Row counts, users, items, base rate and history lengths of each part."""
    parts: dict[str, Any] = {}
    for name in PARTS:
        rows = dataset.parts[name]
        starts = dataset.timelines.offsets[rows.users]
        lengths = np.minimum(rows.ends - starts, dataset.protocol.history)
        quantiles = np.percentile(lengths, QUANTILES, method="nearest").tolist() if len(rows) else []
        parts[name] = {
            "requests": len(rows),
            "rows": int(rows.items.size),
            "users": len(np.unique(rows.users)),
            "items": len(np.unique(rows.items)),
            "base_rate": float(rows.labels.mean()) if len(rows) else 0.0,
            "history_length": {
                "mean": float(lengths.mean()) if len(rows) else 0.0,
                **{f"p{q}": int(value) for q, value in zip(QUANTILES, quantiles, strict=False)},
            },
        }
    return {
        "users": dataset.users.height,
        "items": dataset.items.height,
        "items_with_events": _active_items(dataset),
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
    timelines, protocol = dataset.timelines, dataset.protocol
    counts = {
        "history_reaches_other_user": 0,
        "history_later_than_event": 0,
        "history_as_late_as_event": 0,
        "negative_that_user_touched": 0,
        "request_in_two_parts": 0,
        "train_sees_test_event": 0,
        "info_target_item_in_history": 0,
        "info_train_later_than_users_test": 0,
    }
    for rows in dataset.parts.values():
        if not len(rows):
            continue
        starts, stops = timelines.offsets[rows.users], timelines.offsets[rows.users + 1]
        counts["history_reaches_other_user"] += int(((rows.ends < starts) | (rows.ends > stops)).sum())
        visible = rows.ends > starts
        last = timelines.times[rows.ends[visible] - 1]
        counts["history_later_than_event"] += int((last > rows.times[visible]).sum())
        counts["history_as_late_as_event"] += int((last == rows.times[visible]).sum())
        counts["info_target_item_in_history"] += _targets_in_history(dataset, rows)
        counts["negative_that_user_touched"] += _touched_negatives(dataset, rows)
    counts["request_in_two_parts"] = _shared_requests(dataset)
    counts["train_sees_test_event"], counts["info_train_later_than_users_test"] = _train_after_test(dataset)
    if protocol.ties != "strict" and dataset.schema.history_of == "items":
        counts["info_history_as_late_as_event"] = counts.pop("history_as_late_as_event")
    broken = {name: count for name, count in counts.items() if count and not name.startswith("info_")}
    if broken:
        raise DataError(f"{dataset.name}: the leak audit failed: {broken}; this is a fault of the source or of prerank")
    return counts


def _active_items(dataset: Dataset) -> int:
    used = [np.unique(rows.items) for rows in dataset.parts.values()]
    if dataset.schema.history_of == "items":
        used.append(np.unique(dataset.timelines.entries))
    return len(np.unique(np.concatenate(used)))


def _targets_in_history(dataset: Dataset, rows: Rows) -> int:
    """Rows whose positive item also lies in their own history window: repeated consumption."""
    if dataset.schema.history_of != "items":
        return 0
    total = 0
    for begin in range(0, len(rows), 200_000):  # windows of a slice at a time: 50 entries a row
        part = slice(begin, begin + 200_000)
        entries, lengths = dataset.timelines.windows(rows.users[part], rows.ends[part], dataset.protocol.history)
        owners = np.repeat(np.arange(len(lengths)), lengths)
        hits = (rows.items[part, 0][owners] == entries) & (rows.labels[part, 0][owners] == 1)
        total += len(np.unique(owners[hits]))
    return total


def _touched_negatives(dataset: Dataset, rows: Rows) -> int:
    """Sampled negatives that the user has an event with, anywhere on the timeline."""
    if dataset.protocol.labels != "sampled" or dataset.protocol.negatives_from != "catalogue":
        return 0
    timelines = dataset.timelines
    stride = dataset.items.height
    owners = np.repeat(np.arange(len(timelines.offsets) - 1, dtype=np.int64), np.diff(timelines.offsets))
    seen = np.unique(owners * stride + timelines.entries)
    keys = (rows.users[:, None].astype(np.int64) * stride + rows.items)[rows.labels == 0]
    places = np.minimum(np.searchsorted(seen, keys), len(seen) - 1)
    return int((seen[places] == keys).sum())


def _shared_requests(dataset: Dataset) -> int:
    """Requests that stand in more than one part; a place in a timeline names a request."""
    if dataset.protocol.labels != "sampled" or dataset.protocol.ties == "strict":
        return 0  # there, equal impressions of one user are legitimate, or one place is shared by tied events
    places = np.concatenate([rows.ends for rows in dataset.parts.values()])
    return len(places) - len(np.unique(places))


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
        seeing += int((rows.ends > first_test_end[rows.users]).sum())
        later += int((rows.times > first_test_time[rows.users]).sum())
    return (0 if dataset.protocol.test == "rows" else seeing), later
