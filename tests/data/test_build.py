"""Rows, windows, labels and parts against what they are by hand, and against a slow twin in plain Python."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prerank.data.build import build
from prerank.data.log import PARTS, Dataset, RawLog
from prerank.data.protocol import Protocol, preset
from prerank.errors import DataError
from prerank.schema import Field, Schema

SCHEMA = Schema(
    user_id="user_id",
    item_id="item_id",
    user=(Field(name="user_id"),),
    item=(Field(name="item_id"), Field(name="category")),
    history=("item_id",),
)
RECORDS = SCHEMA.model_copy(update={"history": ("category",), "history_of": "records"})

# (user, item, time, rating, label) in the order of a file that is ordered by nothing.
EVENTS = [
    (2, "c", 30, 5.0, 1),
    (1, "a", 10, 4.0, 1),
    (1, "b", 20, 3.0, 0),
    (3, "e", 5, 2.0, 0),
    (1, "c", 20, 5.0, 1),
    (2, "a", 10, 1.0, 0),
    (1, "d", 40, 5.0, 0),
    (2, "b", 20, 4.0, 1),
    (2, "e", 50, 5.0, 1),
]


def log(events: list[tuple[Any, ...]] = EVENTS, **columns: list[Any]) -> RawLog:
    """Users 3, 1, 2, … and items d, c, b, a, e, f, so that no row number equals an id's rank."""
    return RawLog(
        "by hand",
        SCHEMA,
        users=pl.DataFrame({"user_id": [3, 1, 2, 4, 5]}),
        items=pl.DataFrame({"item_id": list("dcbaef"), "category": list("xxyyzz")}),
        events=pl.DataFrame(
            events, schema=dict(zip(("user", "item", "time", "rating", "label"), TYPES, strict=True)), orient="row"
        ).with_columns(**{name: pl.Series(values) for name, values in columns.items()}),
    )


TYPES = (pl.Int64, pl.String, pl.Int64, pl.Float64, pl.Int8)
Row = tuple[int, int, str, str, str]


def rows(dataset: Dataset, *parts: str) -> list[Row]:
    """(user, time, history, candidates, labels) of each request in stored order, items in their own ids."""
    listed = []
    for part in parts or PARTS:
        chosen = dataset.parts[part]
        entries, lengths = dataset.timelines.windows(chosen.users, chosen.ends, dataset.protocol.history)
        names = dataset.behaviours[:, 0].gather(entries).to_list()
        stops = np.cumsum(lengths)
        for row in range(len(chosen)):
            history = "".join(map(str, names[stops[row] - lengths[row] : stops[row]]))
            candidates = "".join(dataset.items["item_id"].gather(chosen.items[row]))
            labels = "".join(map(str, chosen.labels[row]))
            user = dataset.users["user_id"][int(chosen.users[row])]
            listed.append((user, int(chosen.times[row]), history, candidates, labels))
    return listed


def sizes(dataset: Dataset) -> list[int]:
    return [len(dataset.parts[part]) for part in PARTS]


def test_din_by_hand() -> None:
    # Everything that user 1 never touched is e (f has no events), and d for user 2, so the negatives are certain.
    dataset = build(log(), preset("din"))
    assert rows(dataset, "test") == [(1, 40, "abc", "de", "10"), (2, 50, "abc", "ed", "10")]
    assert sorted(rows(dataset, "train", "valid")) == [
        (1, 20, "a", "be", "10"),
        (1, 20, "ab", "ce", "10"),
        (2, 20, "a", "bd", "10"),
        (2, 30, "ab", "cd", "10"),
    ]
    assert sizes(dataset) == [3, 1, 2]
    assert dataset.timelines.offsets.tolist() == [0, 1, 5, 9, 9, 9]
    assert dataset.timelines.entries.tolist() == [4, 3, 2, 1, 0, 3, 2, 1, 4]
    assert dataset.timelines.times.tolist() == [5, 10, 20, 20, 40, 10, 20, 30, 50]
    assert dataset.facts["parts"]["test"]["history_length"]["mean"] == 3
    assert dataset.facts["items_with_events"] == 5


def test_histories_keep_the_most_recent() -> None:
    dataset = build(log(), preset("din", ["history=2"]))
    assert [row[2] for row in rows(dataset, "test")] == ["bc", "bc"]
    dataset = build(log(), preset("din", ["history=0"]))
    assert {row[2] for row in rows(dataset)} == {""}


def test_fit_drops_ratings_of_three_everywhere() -> None:
    dataset = build(log(), preset("fit"))
    kept = {row[:3]: row[3] for row in rows(dataset)}
    assert kept.keys() == {(1, 20, "a"), (1, 40, "ac"), (2, 20, "a"), (2, 30, "ab"), (2, 50, "abc")}
    assert kept[1, 20, "a"][0] == "c"
    assert kept[1, 40, "ac"] in ("db", "de")  # b is unseen now


def test_dien_by_hand() -> None:
    # One row a user, from the last event; users 1, 2, 4, 5 have two events or more.
    events = [*EVENTS, (4, "a", 1, 5.0, 1), (4, "b", 2, 5.0, 1), (5, "c", 1, 5.0, 1), (5, "d", 2, 5.0, 1)]
    dataset = build(log(events), preset("dien"))
    assert sizes(dataset) == [2, 1, 1]
    expected = {(1, 40, "abc", "d"), (2, 50, "abc", "e"), (4, 2, "a", "b"), (5, 2, "c", "d")}
    assert {(*row[:3], row[3][0]) for row in rows(dataset)} == expected
    assert all(row[3][1] != row[3][0] and row[4] == "10" for row in rows(dataset))
    assert dataset.protocol.history == 100


def test_inttower_by_hand() -> None:
    dataset = build(log(), preset("inttower"))
    assert sizes(dataset) == [5, 1, 2]
    assert sorted(rows(dataset)) == [
        (1, 10, "", "a", "1"),
        (1, 20, "a", "c", "1"),
        (1, 40, "ac", "d", "1"),
        (2, 10, "", "a", "0"),
        (2, 20, "a", "b", "1"),
        (2, 30, "ab", "c", "1"),
        (2, 50, "abc", "e", "1"),
        (3, 5, "", "e", "0"),
    ]


def test_impressions_by_hand() -> None:
    dataset = build(log(), preset("impressions", ["test_size=20"]))
    # Ties are strict, first events have no history, and 50 - 20 is still before the test.
    assert sorted(rows(dataset, "train", "valid")) == [
        (1, 20, "a", "b", "0"),
        (1, 20, "a", "c", "1"),
        (2, 20, "a", "b", "1"),
        (2, 30, "ab", "c", "1"),
    ]
    assert rows(dataset, "test") == [(1, 40, "abc", "d", "0"), (2, 50, "abc", "e", "1")]
    assert sizes(dataset) == [3, 1, 2]


def test_taobao_with_clicks_as_history_by_hand() -> None:
    clicked = [bool(label) for *_, label in EVENTS]
    dataset = build(log(behaviour=clicked), preset("taobao", ["test_size=20"]))
    assert rows(dataset, "test") == [(1, 40, "ac", "d", "0"), (2, 50, "bc", "e", "1")]
    assert sorted(rows(dataset, "train", "valid")) == [  # user 3 never clicked
        (1, 10, "", "a", "1"),
        (1, 20, "a", "b", "0"),
        (1, 20, "a", "c", "1"),
        (2, 10, "", "a", "0"),
        (2, 20, "", "b", "1"),
        (2, 30, "b", "c", "1"),
    ]


def test_records_are_visible_strictly_before_the_impression() -> None:
    records = [(1, "x", 20), (1, "y", 19), (2, "x", 31), (1, "z", 21), (2, "y", 0), (2, "y", 30)]
    raw = replace(
        log(),
        schema=RECORDS,
        records=pl.DataFrame(records, schema=["user", "category", "time"], orient="row"),
    )
    dataset = build(raw, preset("taobao", ["test_size=20", "users=all"]))
    assert {(row[0], row[1], row[2]) for row in rows(dataset)} == {
        *((3, 5, ""), (1, 10, ""), (1, 20, "y"), (1, 40, "yxz")),
        *((2, 10, "y"), (2, 20, "y"), (2, 30, "y"), (2, 50, "yyx")),
    }
    assert dataset.behaviours["category"].to_list() == ["x", "y", "z"]


def test_context_stays_with_its_event() -> None:
    schema = SCHEMA.model_copy(update={"context": (Field(name="hour"),)})
    raw = replace(log(hour=[f"{user}{item}" for user, item, *_ in EVENTS]), schema=schema)
    for changes in ([], ["ties=shuffled"], ["labels=given"]):
        dataset = build(raw, preset("din", changes))
        for part in PARTS:
            context = dataset.parts[part].context
            assert context is not None
            assert context["hour"].to_list() == [f"{row[0]}{row[3][0]}" for row in rows(dataset, part)]


def test_ties() -> None:
    tied = [(1, item, 7, 1.0, 1) for item in "fbdace"] + [(1, "a", 9, 1.0, 1), (1, "b", 3, 1.0, 1)]
    protocol = Protocol(labels="given", test_size=1, validation=0.1)
    by_file = {row[3]: row[2] for row in rows(build(log(tied), protocol)) if row[1] == 7}
    assert by_file == {"f": "b", "b": "bf", "d": "bfb", "a": "bfbd", "c": "bfbda", "e": "bfbdac"}

    strict = build(log(tied), protocol.model_copy(update={"ties": "strict"}))
    assert {row[2] for row in rows(strict) if row[1] == 7} == {"b"}
    assert rows(strict, "test") == [(1, 9, "bfbdace", "a", "1")]

    orders = set()
    for seed in range(5):
        drawn = build(log(tied), protocol.model_copy(update={"ties": "shuffled", "seed": seed}))
        again = build(log(tied), protocol.model_copy(update={"ties": "shuffled", "seed": seed}))
        assert rows(drawn) == rows(again)
        [(_, _, order, _, _)] = rows(drawn, "test")
        assert sorted(order[1:]) == sorted("fbdace")
        assert order[0] == "b"
        for _, time, history, item, _ in rows(drawn, "train", "valid"):
            assert time == 3 or order.startswith(history + item)
        orders.add(order)
    assert len(orders) > 1


def test_negatives_are_unseen_and_drawn_by_the_seed(world: Dataset) -> None:
    touched = defaultdict(set)
    for user, item in zip(world.timelines.owners, world.timelines.entries, strict=True):
        touched[user].add(item)
    for part in PARTS:
        chosen = world.parts[part]
        assert not any(
            item in touched[user] for user, items in zip(chosen.users, chosen.items, strict=True) for item in items[1:]
        )
        assert all(item in touched[user] for user, item in zip(chosen.users, chosen.items[:, 0], strict=True))
        assert (chosen.labels == [1, 0]).all()


def test_the_seed_decides_and_nothing_else() -> None:
    events = [(user, item, time, 5.0, 1) for time, item in enumerate("abc") for user in range(1, 6)]
    events += [(user, "f", 9, 5.0, 1) for user in (1, 2)] + [(3, item, 9, 5.0, 1) for item in "de"]
    first, again, other = (rows(build(log(events), preset("din", [f"seed={seed}"]))) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert {row[:3] for row in first} == {row[:3] for row in other}


def test_several_negatives() -> None:
    dataset = build(log(), preset("din", ["negatives=3"]))
    assert rows(dataset, "test") == [(1, 40, "abc", "deee", "1000"), (2, 50, "abc", "eddd", "1000")]


def test_facts_of_the_build() -> None:
    facts = build(log(), preset("din")).facts
    assert {name: facts[name] for name in ("users", "items", "behaviours")} == {"users": 5, "items": 6, "behaviours": 9}
    assert facts["parts"]["test"] == {
        "requests": 2,
        "rows": 4,
        "users": 2,
        "items": 2,
        "base_rate": 0.5,
        "history_length": {"mean": 3.0, **dict.fromkeys(("p0", "p10", "p25", "p50", "p75", "p90", "p99", "p100"), 3)},
    }


event = st.tuples(st.integers(1, 5), st.sampled_from("abcdef"), st.integers(-3, 3), st.booleans(), st.integers(0, 1))
small = st.lists(event, min_size=3, max_size=25)
distinct = st.lists(event, min_size=3, max_size=25, unique_by=lambda event: event[:3])


def twin_windows(events: list[tuple[Any, ...]], strict: bool, history: int) -> list[str]:
    """The history of each event, read off the definition."""
    order = sorted(range(len(events)), key=lambda place: (events[place][2], place))
    windows = [""] * len(events)
    for at, place in enumerate(order):
        user, _, time, *_ = events[place]
        before = [events[other] for other in order[:at]]
        seen = [e[1] for e in before if e[0] == user and e[3] and (e[2] < time or not strict)]
        windows[place] = "".join(seen[max(0, len(seen) - history) :])
    return windows


@settings(deadline=None)
@given(distinct, st.booleans(), st.integers(0, 4), st.sampled_from(["all", "has_history", "has_click"]))
def test_windows_and_rows_equal_their_twin(
    events: list[tuple[Any, ...]], strict: bool, history: int, users: Any
) -> None:
    visible = [event[3] for event in events]
    raw = log([(*event[:3], 5.0, event[4]) for event in events], behaviour=visible)
    windows = twin_windows(events, strict, history)
    unbounded = twin_windows(events, strict, len(events))
    clickers = {event[0] for event in events if event[4]}
    kept = {
        "all": [True] * len(events),
        "has_history": [window != "" for window in unbounded],
        "has_click": [event[0] in clickers for event in events],
    }[users]
    expected = Counter(
        (event[0], event[2], window, event[1], str(event[4]))
        for event, window, keep in zip(events, windows, kept, strict=True)
        if keep
    )
    ties = "strict" if strict else "file"
    protocol = Protocol(labels="given", ties=ties, history=history, users=users, test="rows", test_size=0.3)
    try:
        dataset = build(raw, protocol)
    except DataError as error:
        assert "part is empty" in str(error)
        assert expected.total() < len(events) or len(events) < 4
        return
    assert Counter(rows(dataset)) == expected
    assert dataset.facts["parts"]["train"]["requests"] == len(dataset.parts["train"])


@settings(deadline=None)
@given(small, st.sampled_from(["every", "last"]), st.integers(1, 3))
def test_sampled_rows_equal_their_twin(events: list[tuple[Any, ...]], targets: Any, test_size: int) -> None:
    items = {event[1] for event in events}
    touched: dict[int, set[str]] = defaultdict(set)
    for event in events:
        touched[event[0]].add(event[1])
    raw = log([(*event[:3], 5.0, 1) for event in events])
    protocol = Protocol(targets=targets, test_size=test_size)
    if len(items) < 2 or any(len(seen) == len(items) for seen in touched.values()):
        with pytest.raises(DataError, match="negative"):
            build(raw, protocol)
        return
    windows = twin_windows([(*event[:3], True) for event in events], strict=False, history=50)
    positives = []
    for user in sorted(touched, key=[3, 1, 2, 4, 5].index):
        own = sorted((event[2], place) for place, event in enumerate(events) if event[0] == user)
        rows_of_user = own[1:] if targets == "every" else own[1:][-1:]
        positives.append([(user, time, windows[place], events[place][1]) for time, place in rows_of_user])
    train = [row for of_user in positives for row in of_user[:-test_size]]
    test = [row for of_user in positives for row in of_user[-test_size:]]
    assume(len(train) > 1)
    dataset = build(raw, protocol)
    assert [(*row[:3], row[3][0]) for row in rows(dataset, "test")] == test
    assert Counter((*row[:3], row[3][0]) for row in rows(dataset, "train", "valid")) == Counter(train)
    for user, _, _, candidates, labels in rows(dataset):
        assert candidates[1] in items - touched[user]
        assert labels == "10"


@settings(deadline=None)
@given(
    small,
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from("xyz"), st.integers(-3, 3)), max_size=20),
    st.integers(0, 4),
)
def test_histories_of_records_equal_their_twin(
    events: list[tuple[Any, ...]], records: list[tuple[int, str, int]], history: int
) -> None:
    assume(len(events) > 3)
    table = pl.DataFrame(records, schema={"user": pl.Int64, "category": pl.String, "time": pl.Int64}, orient="row")
    raw = replace(log([(*event[:3], 5.0, event[4]) for event in events]), schema=RECORDS, records=table)
    dataset = build(raw, Protocol(labels="given", history=history, test="rows", test_size=0.3))
    by_time = sorted(records, key=lambda record: record[2])

    def window(user: int, time: int) -> str:
        seen = [record[1] for record in by_time if record[0] == user and record[2] < time]
        return "".join(seen[max(0, len(seen) - history) :])

    expected = Counter((e[0], e[2], window(e[0], e[2]), e[1], str(e[4])) for e in events)
    assert Counter(rows(dataset)) == expected


def test_times_may_be_of_any_size() -> None:
    """Nanoseconds times users would overflow 64 bits, and so would spans around zero."""
    far = 1_700_000_000_000_000_000
    events = [(user, "a", far + user, 5.0, 1) for user in (1, 2, 3, 4, 5)] + [(1, "b", -far, 5.0, 0)]
    records = pl.DataFrame({"user": [1, 5, 5, 3], "category": list("xyzx"), "time": [0, far + 4, far + 5, far + 2]})
    raw = replace(log(events), schema=RECORDS, records=records)
    dataset = build(raw, preset("impressions", ["test_size=1", "users=all", "validation=0.1"]))
    assert {(row[0], row[2]) for row in rows(dataset)} == {(1, ""), (1, "x"), (2, ""), (3, "x"), (4, ""), (5, "y")}
    assert rows(dataset, "test") == [(5, far + 5, "y", "a", "1")]


def without(table: str, column: str) -> RawLog:
    raw = log()
    return replace(raw, **{table: getattr(raw, table).drop(column)})


def with_event(*event: Any) -> RawLog:
    """A tenth event, in row 10."""
    return log([*EVENTS, event])


def with_users(ids: list[Any]) -> RawLog:
    return replace(log(), users=pl.DataFrame({"user_id": ids}))


def with_records(*users: int) -> RawLog:
    count = len(users)
    records = pl.DataFrame({"user": users, "category": ["x"] * count, "time": range(count)})
    return replace(log(), schema=RECORDS, records=records)


@pytest.mark.parametrize(
    ("raw", "changes", "message"),
    [
        (log(), ["labels=given", "test=time", "test_size=1000"], "the train part is empty under protocol 'din'"),
        (log(EVENTS[:3]), [], "the train part is empty"),
        (log(EVENTS[3:4] * 2), [], "1 with events"),
        (log([event for event in EVENTS if event[1] != "e"]), [], "user in row 2 of the user table"),
        (log(), ["drop_ratings=[1, 2, 3, 4, 5]"], "no events left"),
        (without("events", "label"), ["labels=given"], "needs a label column"),
        (without("events", "rating"), ["labels=rating"], "needs a rating column"),
        (without("events", "rating"), ["drop_ratings=[3]"], "needs a rating column"),
        (without("events", "time"), [], "events: column 'time' is missing; columns: user, item"),
        (without("items", "category"), [], "items: column 'category' is missing"),
        (with_event(9, "a", 1, 5.0, 1), ["drop_ratings=[3]"], "events, row 10, column 'user': 9 is not in the users"),
        (with_event(1, "q", 1, 5.0, 1), [], "events, row 10, column 'item': 'q' is not in the items"),
        (with_event(None, "a", 1, 5.0, 1), [], "events, row 10, column 'user': None is not in the users"),
        (with_event(1, "a", None, 5.0, 1), [], "events, row 10, column 'time': None is missing"),
        (with_event(1, "a", 1, None, 1), ["labels=rating"], "events, row 10, column 'rating': None is missing"),
        (with_event(1, "a", 1, float("nan"), 1), ["labels=rating"], "row 10, column 'rating': nan is missing"),
        (with_event(1, "a", 1, 5.0, 2), ["labels=given"], "events, row 10, column 'label': 2 must be 0 or 1"),
        (with_event(1, "a", 1, 5.0, None), ["labels=given"], "row 10, column 'label': None must be 0 or 1"),
        (log(behaviour=[True] * 8 + [False]), [], "sampled labels need every event, and nothing else, in the history"),
        (with_users([1, 2, 3, 2]), [], "user table, row 2, column 'user_id': 2 occurs twice"),
        (with_users(["1", "2", "3"]), [], "events, column 'user': is Int64, 'user_id' of the users is String"),
        (with_records(1), [], "sampled labels need every event"),
        (with_records(1, 7), ["labels=given"], "records, row 2, column 'user': 7 is not in the users"),
        (replace(log(), events=log().events.cast({"time": pl.Float64})), [], "column 'time': is Float64"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(raw: RawLog, changes: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        build(raw, preset("din", changes))
    assert "\n" not in str(caught.value)
