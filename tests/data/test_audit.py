"""Every leak planted by hand is found and named, and what is no leak is left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from prerank.data.audit import audit, describe
from prerank.data.build import build
from prerank.data.log import PARTS, Dataset, RawLog, Rows
from prerank.data.protocol import Protocol, preset
from prerank.errors import DataError
from prerank.schema import Field, Schema

SCHEMA = Schema(
    user_id="user",
    item_id="item",
    user=(Field(name="user"),),
    item=(Field(name="item"),),
    history=("item",),
)


def log(events: list[tuple[int, int, int, int]], behaviour: list[bool] | None = None) -> RawLog:
    """Events as (user, item, time, label)."""
    table = pl.DataFrame(events, schema=["user", "item", "time", "label"], orient="row")
    if behaviour is not None:
        table = table.with_columns(behaviour=pl.Series(behaviour))
    numbers = pl.DataFrame({"user": range(10)})
    return RawLog("planted", SCHEMA, numbers, numbers.rename({"user": "item"}), table)


def as_records(raw: RawLog) -> RawLog:
    schema = SCHEMA.model_copy(update={"history_of": "records"})
    return replace(raw, schema=schema, records=raw.events.select("user", "item", "time"))


# Three users with items 0 to 4, 2 to 6 and 4 to 8, at times 10, 20, …
LOG = log([(user, 2 * user + step, 10 * step + 10, step % 2) for user in range(3) for step in range(5)])
GIVEN = Protocol(labels="given")


def with_rows(dataset: Dataset, part: str, **changes: Any) -> Dataset:
    return replace(dataset, parts={**dataset.parts, part: replace(dataset.parts[part], **changes)})


def changed(values: Any, place: Any, value: int) -> Any:
    copy = np.array(values)
    copy[place] = value
    return copy


def findings(dataset: Dataset) -> dict[str, int]:
    """The counts that must be zero and are not, from the message."""
    with pytest.raises(DataError, match="leak audit failed") as caught:
        audit(dataset)
    message = str(caught.value)
    assert "\n" not in message
    found: dict[str, int] = eval(message[message.index("{") : message.index("}") + 1])
    return found


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "protocol", [preset("din"), GIVEN, preset("din", ["ties=strict"]), preset("din", ["ties=shuffled"])]
)
def test_a_window_one_too_far_holds_its_own_event(protocol: Protocol, part: str) -> None:
    dataset = build(LOG, protocol)
    rows = dataset.parts[part]
    found = findings(with_rows(dataset, part, ends=rows.ends + 1))
    assert found["history_holds_own_event"] == len(rows)
    assert ("history_as_late_as_event" in found) == (protocol.ties == "strict")


def test_a_window_two_too_far_is_later_than_its_event() -> None:
    dataset = build(LOG, preset("din"))
    rows = dataset.parts["train"]
    within = rows.ends + 2 <= dataset.timelines.offsets[rows.users + 1]
    found = findings(with_rows(dataset, "train", ends=rows.ends + 2 * within))
    assert found["history_later_than_event"] == within.sum() > 0


@pytest.mark.parametrize("records", [False, True])
def test_a_window_of_another_user_is_found(records: bool) -> None:
    dataset = build(as_records(LOG) if records else LOG, GIVEN)
    starts, stops = dataset.timelines.offsets[:-1], dataset.timelines.offsets[1:]
    rows = dataset.parts["test"]
    before = with_rows(dataset, "test", ends=changed(rows.ends, 1, starts[rows.users[1]] - 1))
    assert findings(before)["history_reaches_other_user"] == 1
    beyond = with_rows(dataset, "test", ends=changed(rows.ends, 2, stops[rows.users[2]] + 1))
    assert findings(beyond)["history_reaches_other_user"] == 1


def test_records_as_late_as_the_event_are_found_whatever_the_tie_rule() -> None:
    dataset = build(as_records(LOG), GIVEN)
    rows = dataset.parts["test"]
    assert findings(with_rows(dataset, "test", ends=rows.ends + 1)) == {"history_as_late_as_event": 3}


def test_tied_histories_are_an_information_or_a_fault() -> None:
    tied = log([(user, 2 * user + step, 10 * (step // 2), 1) for user in range(3) for step in range(6)])
    dataset = build(tied, preset("din"))
    assert dataset.facts["leak_audit"]["info_history_as_late_as_event"] == 9
    assert "history_as_late_as_event" not in dataset.facts["leak_audit"]
    under_strict = replace(dataset, protocol=preset("din", ["ties=strict"]))
    assert findings(under_strict) == {"history_as_late_as_event": 9}
    assert build(tied, preset("din", ["ties=strict"])).facts["leak_audit"]["history_as_late_as_event"] == 0


def test_a_touched_negative_is_found() -> None:
    dataset = build(LOG, preset("din"))
    for part, touched in (("train", 1), ("test", 0)):
        rows = dataset.parts[part]
        item = 2 * int(rows.users[0]) + touched
        assert findings(with_rows(dataset, part, items=changed(rows.items, (0, 1), item))) == {
            "negative_that_user_touched": 1
        }


def test_negatives_from_events_must_only_differ_from_their_target() -> None:
    dataset = build(LOG, preset("din", ["negatives_from=events"]))
    rows = dataset.parts["train"]
    touched = changed(rows.items, (0, 1), 2 * int(rows.users[0]))  # the user's first item is never a target
    audit(with_rows(dataset, "train", items=touched))
    target = with_rows(dataset, "train", items=changed(rows.items, (0, 1), rows.items[0, 0]))
    assert findings(target) == {"negative_that_user_touched": 1}


def test_a_request_in_two_parts_is_found() -> None:
    dataset = build(LOG, preset("din"))
    train, test = dataset.parts["train"], dataset.parts["test"]
    both = replace(dataset, parts={**dataset.parts, "valid": train.take(np.array([0, 1]))})
    assert findings(both) == {"request_in_two_parts": 2}
    both = replace(dataset, parts={**dataset.parts, "valid": test.take(np.array([0]))})
    assert findings(both) == {"request_in_two_parts": 1}


@pytest.mark.parametrize("protocol", [preset("din"), GIVEN])
def test_a_training_row_after_the_test_event_is_found(protocol: Protocol) -> None:
    dataset = build(LOG, protocol)
    swapped = replace(dataset, parts={**dataset.parts, "train": dataset.parts["test"], "test": dataset.parts["train"]})
    found = findings(swapped)
    assert found.keys() == {"train_sees_test_event"}
    ends = {int(user): end for user, end in reversed(list(zip(*sorted_rows(dataset.parts["train"]), strict=True)))}
    late = [
        *zip(*sorted_rows(dataset.parts["test"]), strict=True),
        *zip(*sorted_rows(dataset.parts["valid"]), strict=True),
    ]
    assert found["train_sees_test_event"] == sum(end > ends.get(int(user), 99) for user, end in late)


def sorted_rows(rows: Rows) -> tuple[Any, Any]:
    order = np.lexsort((rows.ends, rows.users))
    return rows.users[order], rows.ends[order]


def test_a_random_split_says_so() -> None:
    facts = build(LOG, Protocol(labels="given", test="rows", test_size=0.5)).facts["leak_audit"]
    assert facts["info_train_sees_test_event"] > 0
    assert facts["info_train_later_than_users_test"] > 0
    assert "train_sees_test_event" not in facts


def test_only_what_was_checked_is_reported() -> None:
    assert set(build(LOG, GIVEN).facts["leak_audit"]) == {
        "history_reaches_other_user",
        "history_later_than_event",
        "info_history_as_late_as_event",
        "history_holds_own_event",
        "info_target_item_in_history",
        "train_sees_test_event",
        "info_train_later_than_users_test",
    }
    assert set(build(as_records(LOG), GIVEN).facts["leak_audit"]) == {
        "history_reaches_other_user",
        "history_later_than_event",
        "history_as_late_as_event",
        "train_sees_test_event",
        "info_train_later_than_users_test",
    }


def test_repeated_consumption_is_counted_within_the_window_only() -> None:
    repeats = [(0, item, time, 1) for time, item in enumerate((1, 2, 1, 3, 1, 3, 4, 5, 2, 6))]
    raw = log([*repeats, *((1, 7 + item, item, 1) for item in range(3))])
    assert build(raw, Protocol(labels="given")).facts["leak_audit"]["info_target_item_in_history"] == 4
    assert build(raw, Protocol(labels="given", history=2)).facts["leak_audit"]["info_target_item_in_history"] == 3
    assert build(raw, Protocol(labels="given", history=1)).facts["leak_audit"]["info_target_item_in_history"] == 0


def test_equal_events_in_a_row_are_no_leak() -> None:
    events = [(0, item, time, 1) for item, time in ((1, 5), (2, 7), (2, 7), (2, 7), (1, 7), (3, 9))]
    raw = log([*events, (1, 5, 1, 1), (1, 6, 2, 1)])
    for ties in ("file", "shuffled", "strict"):
        facts = build(raw, preset("din", [f"ties={ties}"])).facts["leak_audit"]
        assert facts["history_holds_own_event"] == 0


def test_a_click_at_the_time_of_its_own_impression_is_found() -> None:
    """The click is a row of its own, and in the file it comes first."""
    raw = log([*LOG.events.rows(), (0, 9, 99, 1), (0, 9, 99, 1)], [True] * 16 + [False])
    with pytest.raises(DataError, match=r"'history_holds_own_event': 1}; equal events at one time need .*ties=strict"):
        build(raw, GIVEN)
    assert build(raw, GIVEN.model_copy(update={"ties": "strict"})).facts["leak_audit"]["history_holds_own_event"] == 0


def test_impressions_that_are_no_behaviour_are_no_leak() -> None:
    events = [
        (user, item, time, (user + time) % 2) for user in range(4) for time in range(6) for item in (time, 9 - time)
    ]
    clicked = [label == 1 for *_, label in events]
    facts = build(log(events, clicked), Protocol(labels="given", test="time", test_size=2)).facts["leak_audit"]
    assert facts["train_sees_test_event"] == facts["history_holds_own_event"] == 0


def test_history_lengths_are_described_as_the_model_sees_them() -> None:
    dataset = build(LOG, Protocol(labels="given", history=3))
    lengths = describe(dataset)["parts"]["test"]["history_length"]
    assert lengths["mean"] == lengths["p0"] == lengths["p100"] == 3
    everything = [
        describe(dataset)["parts"][part]["history_length"]["mean"] * len(dataset.parts[part]) for part in PARTS
    ]
    assert sum(everything) == pytest.approx(3 * (0 + 1 + 2 + 3 + 3))
