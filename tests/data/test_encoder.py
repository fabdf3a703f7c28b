"""The encoder knows what the training part showed, and treats tables and requests alike."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prerank.batch import Features, Ragged
from prerank.data.build import build
from prerank.data.encoder import Encoder, unknown_share
from prerank.data.loader import EncodedDataset
from prerank.data.log import Dataset, RawLog, Rows
from prerank.data.protocol import Protocol
from prerank.data.vocabulary import Vocabulary
from prerank.errors import ArtefactError, DataError, RequestError
from prerank.schema import Schema

SCHEMA = Schema.model_validate(
    {
        "user_id": "user",
        "item_id": "film",
        "user": ["user", "city", {"name": "age", "kind": "numeric", "buckets": 2}],
        "item": ["film", {"name": "genres", "kind": "multi"}, {"name": "price", "kind": "numeric", "buckets": 4}],
        "context": ["hour"],
        "history": ["film", "genres"],
        "title": "name",
    }
)
USERS = pl.DataFrame(
    {"user": [1, 2, 3], "city": ["bonn", None, "ulm"], "age": [20, 40, None]}, schema_overrides={"age": pl.Int64}
)
ITEMS = pl.DataFrame(
    {
        "film": [f"f{number}" for number in range(6)],
        "genres": [["war"], ["war", "art"], [], None, ["sport"], ["art", None]],
        "price": [1.0, 2.0, None, float("nan"), 5.0, 6.0],
        "name": list("abcdef"),
    }
)
# user, item, time, label, hour. The last event of a user is the test; f4 and f5 are met in the test only.
EVENTS = [
    *((1, "f0", 1, 1, 8), (1, "f1", 2, 0, 9), (1, "f0", 3, 1, 9), (1, "f4", 4, 1, 23)),
    *((2, "f2", 1, 1, 9), (2, "f3", 2, 0, 9), (2, "f0", 3, 0, 9), (2, "f5", 9, 1, 9)),
    (3, "f4", 9, 1, 9),
]


def raw(events: list[tuple[Any, ...]] = EVENTS, schema: Schema = SCHEMA) -> RawLog:
    table = pl.DataFrame(events, schema=["user", "item", "time", "label", "hour"], orient="row")
    return RawLog("films", schema, USERS, ITEMS, table)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Its validation request is put back into training, so that vocabularies are known whatever the seed."""
    made = build(raw(), Protocol(labels="given", validation=0.1))
    train, valid = made.parts["train"], made.parts["valid"]
    assert train.context is not None
    assert valid.context is not None
    names = ("users", "ends", "items", "labels", "times")
    joined: dict[str, Any] = {name: np.concatenate([getattr(train, name), getattr(valid, name)]) for name in names}
    everything = Rows(**joined, context=pl.concat([train.context, valid.context]))
    return replace(made, parts={**made.parts, "train": everything})


@pytest.fixture(scope="module")
def encoder(dataset: Dataset) -> Encoder:
    return Encoder.fit(dataset)


def values(encoder: Encoder, name: str) -> tuple[str, ...]:
    coder = encoder.coders[name]
    assert isinstance(coder, Vocabulary)
    return coder.values


def plain(features: Features) -> dict[str, Any]:
    """Ids as lists, one entry a row."""
    out: dict[str, Any] = {}
    for name, column in features.columns.items():
        if isinstance(column, Ragged):
            ids = column.values.tolist()
            out[name] = [ids[start:stop] for start, stop in pairwise(column.offsets.tolist())]
        else:
            out[name] = column.tolist()
    return out


def test_vocabularies_hold_the_training_part_only(encoder: Encoder) -> None:
    assert values(encoder, "user.user") == ("1", "2")
    assert values(encoder, "user.city") == ("bonn",)
    assert values(encoder, "item.film") == ("f0", "f1", "f2", "f3")
    assert values(encoder, "item.genres") == ("art", "war")
    assert values(encoder, "context.hour") == ("8", "9")
    assert encoder.coders["item.price"].edges.tolist() == [1.25, 1.5, 1.75]  # type: ignore[union-attr]
    assert encoder.coders["user.age"].edges.tolist() == [30.0]  # type: ignore[union-attr]
    assert dict(encoder.inputs.user) == {"user": 3, "city": 2, "age": 3, "hour": 3}
    assert dict(encoder.inputs.item) == {"film": 5, "genres": 3, "price": 5}
    assert encoder.inputs.history == ("film", "genres")


def test_tables_by_hand(encoder: Encoder) -> None:
    assert plain(encoder.encode("user", USERS)) == {"user": [1, 2, 0], "city": [1, 0, 0], "age": [1, 2, 0]}
    assert plain(encoder.encode("item", ITEMS)) == {
        "film": [1, 2, 3, 4, 0, 0],
        "genres": [[2], [2, 1], [], [], [0], [1, 0]],
        "price": [1, 4, 0, 0, 4, 4],
    }


def test_histories_share_the_items_ids(encoder: Encoder) -> None:
    history, item = plain(encoder.encode("history", ITEMS)), plain(encoder.encode("item", ITEMS))
    assert history == {"film": item["film"], "genres": item["genres"]}


def test_unknown_values_are_counted(dataset: Dataset, encoder: Encoder) -> None:
    shares = EncodedDataset(dataset, encoder).unknown()
    assert shares["test"] == {
        "user": {"user": 1 / 3, "city": 2 / 3, "age": 1 / 3},
        "item": {"film": 1.0, "genres": 3 / 4, "price": 0.0},  # f4 twice and f5: sport, sport, art, null
        "context": {"hour": 1 / 3},
    }
    assert shares["train"]["user"] == {"user": 0.0, "city": 0.5, "age": 0.0}
    assert shares["train"]["item"] == {"film": 0.0, "genres": 0.0, "price": 2 / 6}


def test_unknown_share_is_weighted_by_occurrence() -> None:
    lists = Ragged(torch.tensor([0, 1, 0]), torch.tensor([0, 2, 2, 3]))
    features = Features({"a": torch.tensor([0, 1, 2]), "b": lists}, 3)
    assert unknown_share(features, np.array([3, 1, 0])) == {"a": 0.75, "b": 0.5}
    assert unknown_share(features, np.array([0, 7, 0])) == {"a": 0.0, "b": 0.0}


def test_rare_values_share_the_unknown_row(dataset: Dataset) -> None:
    fields = (SCHEMA.item[0].model_copy(update={"min_count": 3}), *SCHEMA.item[1:])
    schema = SCHEMA.model_copy(update={"item": fields})
    # f0 is three times a candidate and once a behaviour before a training row, f1 to f3 are once either.
    assert values(Encoder.fit(replace(dataset, schema=schema)), "item.film") == ("f0",)


def test_histories_add_to_the_vocabulary_what_training_windows_showed() -> None:
    """f2 is never a candidate of a training row, yet seen before one; f3 lies after the last training row."""
    events = [(1, "f2", 1, 1, 9), (1, "f0", 2, 1, 9), (1, "f3", 3, 1, 9), (2, "f1", 1, 1, 9), (2, "f0", 2, 1, 9)]
    made = build(raw(events), Protocol(labels="given", test="rows", test_size=0.3))
    rows = made.parts["train"]
    first = replace(
        rows,
        users=np.array([0], dtype=np.int32),
        ends=np.array([1]),
        items=np.array([[0]], dtype=np.int32),
        labels=np.array([[1]], dtype=np.uint8),
        times=np.array([2]),
        context=pl.DataFrame({"hour": [9]}),
    )
    encoder = Encoder.fit(replace(made, parts={**made.parts, "train": first}))
    assert values(encoder, "item.film") == ("f0", "f2")


def test_requests_by_hand(encoder: Encoder) -> None:
    rows: list[dict[str, Any]] = [
        {"user": "1", "city": "bonn", "age": 29.9},
        {"user": 2, "age": 30},
        {},
        {"user": 9, "city": None, "age": None},
    ]
    assert plain(encoder.encode_values("user", rows)) == {
        "user": [1, 2, 0, 0],
        "city": [1, 0, 0, 0],
        "age": [1, 2, 0, 0],
    }
    items: list[dict[str, Any]] = [
        {"film": "f3", "genres": ["war", "new", None]},
        {"genres": ("art",)},
        {"genres": [], "price": 1.3},
    ]
    assert plain(encoder.encode_values("item", items)) == {
        "film": [4, 0, 0],
        "genres": [[2, 0, 0], [1], []],
        "price": [0, 0, 2],
    }
    assert plain(encoder.encode_values("context", [{"hour": 8}, {"hour": "9"}])) == {"hour": [1, 2]}
    assert plain(encoder.encode_values("user", [])) == {"user": [], "city": [], "age": []}


@pytest.mark.parametrize(
    ("side", "row", "message"),
    [
        ("user", {"aeg": 3}, "user.aeg: unknown field; fields: age, city, user"),
        ("context", {"film": "f0"}, "context.film: unknown field; fields: hour"),
        ("item", {"name": "a"}, "item.name: unknown field; fields: film, genres, price"),
        ("history", {"price": 1.0}, "history.price: unknown field; fields: film, genres"),
        ("user", {"age": "old"}, "user.age: expected a number, got 'old'"),
        ("user", {"age": True}, "user.age: expected a number, got True"),
        ("user", {"age": 10**400}, "user.age: the number is too large"),
        ("user", {"age": [3]}, r"user.age: expected a number, got \[3\]"),
        ("user", {"city": ["bonn"]}, "user.city: expected a text or a number, got list"),
        ("user", {"city": {"name": "bonn"}}, "user.city: expected a text or a number, got dict"),
        ("item", {"genres": "war"}, "item.genres: expected a list of values, got 'war'"),
        ("item", {"genres": [["war"]]}, "item.genres: expected a text or a number, got list"),
    ],
)
def test_wrong_requests_are_named_in_one_line(encoder: Encoder, side: Any, row: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        encoder.encode_values(side, [{}, row])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (ITEMS.drop("genres"), "item table: column 'genres' is missing; columns: film, price, name"),
        (ITEMS.with_columns(genres=pl.lit("war")), "item table: column 'genres' is String, kind multi needs lists"),
        (
            ITEMS.with_columns(film=pl.col("genres")),
            r"item table: column 'film' is List\(String\), kind categorical needs single values",
        ),
        (ITEMS.with_columns(film=pl.lit(1.5)), "column 'film': holds fractional numbers"),
        (
            ITEMS.with_columns(price=pl.lit("cheap")),
            "item table: column 'price' is String, kind numeric needs numbers",
        ),
    ],
)
def test_wrong_tables_are_named_in_one_line(encoder: Encoder, table: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        encoder.encode("item", table)
    assert "\n" not in str(caught.value)


scalars = st.none() | st.integers(0, 3) | st.sampled_from([0.0, 1.0, 2.0])
words = st.none() | st.sampled_from(["0", "1", "a", "é", ""])
numbers = st.none() | st.floats(-5, 5) | st.just(float("nan"))


@settings(deadline=None)
@given(st.lists(st.tuples(scalars, words, numbers, st.none() | st.lists(words, max_size=3)), min_size=2, max_size=8))
def test_tables_and_requests_are_encoded_alike(rows: list[tuple[Any, Any, Any, Any]]) -> None:
    columns = {"user": [None if row[0] is None else float(row[0]) for row in rows], "city": [row[1] for row in rows]}
    types = {"user": pl.Float64(), "city": pl.String(), "age": pl.Float64()}
    users = pl.DataFrame({**columns, "age": [row[2] for row in rows]}, schema=types)
    items = pl.DataFrame(
        {"film": [row[0] for row in rows], "genres": [row[3] for row in rows], "price": [row[2] for row in rows]},
        schema={"film": pl.Float64, "genres": pl.List(pl.String), "price": pl.Float64},
        strict=False,
    )
    half = np.arange(len(rows)) % 2
    coders = {
        "user.user": Vocabulary.fit(users["user"], half, 1),
        "user.city": Vocabulary.fit(users["city"], half, 1),
        "item.film": Vocabulary.fit(items["film"], half, 1),
        "item.genres": Vocabulary.fit(items["genres"], half, 1),
    }
    buckets = {"user.age": [-1.0, 0.5], "item.price": [0.0]}
    state = pl.DataFrame(
        [(name, value) for name, coder in coders.items() for value in coder.values],
        schema={"field": pl.String, "value": pl.String},
        orient="row",
    )
    encoder = Encoder.restore(SCHEMA, 50, state, buckets)
    user_rows = [dict(zip(("user", "city", "age"), row, strict=False)) for row in rows]
    item_rows = [{"film": row[0], "price": row[2], "genres": row[3]} for row in rows]
    assert plain(encoder.encode("user", users)) == plain(encoder.encode_values("user", user_rows))
    assert plain(encoder.encode("item", items)) == plain(encoder.encode_values("item", item_rows))


def test_what_is_saved_is_restored(encoder: Encoder) -> None:
    table, edges = encoder.state()
    again = Encoder.restore(SCHEMA, encoder.history, table, edges)
    assert again.state()[0].equals(table)
    assert again.state()[1] == edges
    assert again.inputs == encoder.inputs
    for side, rows in (("user", USERS), ("item", ITEMS), ("history", ITEMS)):
        assert plain(again.encode(side, rows)) == plain(encoder.encode(side, rows))  # type: ignore[arg-type]
    with pytest.raises(ArtefactError, match=r"numeric field user.age has no fitted numbers"):
        Encoder.restore(SCHEMA, 50, table, {"item.price": [1.0]})


def test_numbers_alone_have_a_state_too() -> None:
    schema = Schema.model_validate(
        {
            "user_id": "user",
            "item_id": "film",
            "user": [{"name": "age", "kind": "numeric"}],
            "item": [{"name": "price", "kind": "numeric"}],
            "history": ["price"],
        }
    )
    encoder = Encoder.fit(build(raw(schema=schema), Protocol(labels="given")))
    table, edges = encoder.state()
    assert table.height == 0
    assert set(edges) == {"user.age", "item.price"}
    assert Encoder.restore(schema, 50, table, edges).inputs == encoder.inputs


def test_ids_are_integers_of_64_bits(encoder: Encoder) -> None:
    for column in encoder.encode("user", USERS).columns.values():
        assert isinstance(column, Tensor)
        assert column.dtype == torch.int64
