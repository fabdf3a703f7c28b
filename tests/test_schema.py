"""Schemas: bare names, and what cannot be meant."""

from __future__ import annotations

from typing import Any

import pytest

from prerank.config import parse
from prerank.errors import ConfigError
from prerank.schema import Field, Schema

SCHEMA: dict[str, Any] = {
    "user_id": "user",
    "item_id": "film",
    "user": ["user", {"name": "age", "kind": "numeric", "buckets": 5}],
    "item": ["film", {"name": "genres", "kind": "multi"}],
    "history": ["genres", "film"],
}


def schema(**changes: Any) -> Schema:
    return parse(Schema, {**SCHEMA, **changes}, "own.yaml: schema")


def test_a_bare_name_is_a_categorical_field() -> None:
    assert schema().user == (Field(name="user", kind="categorical"), Field(name="age", kind="numeric", buckets=5))
    assert schema(context=["hour"]).context == (Field(name="hour"),)


def test_history_fields_are_item_fields_in_the_order_of_the_history() -> None:
    assert [(field.name, field.kind) for field in schema().history_fields] == [
        ("genres", "multi"),
        ("film", "categorical"),
    ]


def test_what_is_written_can_be_read_again() -> None:
    made = schema(context=["hour"], history_of="records", title="name")
    assert parse(Schema, made.model_dump(mode="json"), "again") == made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"histroy": ["film"]}, "histroy: unknown key; did you mean 'history'?"),
        ({"user": ["user", {"name": "age", "kin": "numeric"}]}, "user.1.kin: unknown key; did you mean 'kind'?"),
        (
            {"item": ["film", {"name": "price", "kind": "number"}]},
            "item.1.kind: input should be 'categorical', 'multi'",
        ),
        ({"user": [{"name": "age", "kind": "numeric", "buckets": 1}]}, "user.0.buckets: input should be greater than"),
        (
            {"item": ["film", {"name": "price", "kind": "numeric", "numeric": "log"}]},
            "item.1.numeric: input should be 'buckets', 'scale' or 'autodis' (got 'log')",
        ),
        ({"item": ["film", {"name": "price", "numeric": "scale"}]}, "field 'price': numeric is read with kind numeric"),
        (
            {"item": ["film", {"name": "price", "kind": "numeric", "numeric": "scale", "buckets": 5}]},
            "field 'price': buckets is read with numeric buckets or autodis only",
        ),
        (
            {"item": ["film", {"name": "price", "kind": "numeric", "temperature": 1}]},
            "field 'price': temperature is read with numeric autodis only",
        ),
        (
            {"item": ["film", {"name": "price", "kind": "numeric", "numeric": "autodis", "temperature": 0}]},
            "item.1.temperature: input should be greater than 0 (got 0)",
        ),
        (
            {"item": ["film", {"name": "price", "kind": "numeric", "min_count": 3}]},
            "field 'price': min_count is read with kind categorical or multi only",
        ),
        ({"pair": [{"name": "n", "match": "age"}]}, "pair field 'n': match 'age' is not a history field: genres, film"),
        (
            {"pair": [{"name": "n", "match": "film", "kind": "multi"}]},
            "pair field 'n': match gives a number, so its kind is numeric",
        ),
        ({"context": ["n"], "pair": ["n"]}, "field 'n' is declared twice for context and pair"),
        ({"pair": [{"name": "n", "matches": "film"}]}, "pair.0.matches: unknown key; did you mean 'match'?"),
        (
            {
                "item": ["film", {"name": "price", "kind": "numeric"}],
                "history": ["film", "price"],
                "pair": [{"name": "n", "match": "price"}],
            },
            "pair field 'n': match 'price' is numeric; categories can match",
        ),
        ({"user": "user"}, "user: input should be a valid tuple (got 'user')"),
        ({"user": []}, "user and item need at least one field each"),
        ({"item": []}, "user and item need at least one field each"),
        ({"history": []}, "history needs at least one item field"),
        ({"history": ["film", "age"]}, "history field 'age' is not an item field; item fields: film, genres"),
        ({"history": ["film", "film"]}, "field 'film' is declared twice for history"),
        ({"user": ["user", "user"]}, "field 'user' is declared twice for user and context"),
        ({"context": ["age"]}, "field 'age' is declared twice for user and context"),
        ({"item": ["film", "genres", "genres"]}, "field 'genres' is declared twice for item"),
        ({"history_of": "sessions"}, "history_of: input should be 'items' or 'records' (got 'sessions')"),
        ({"user_id": None}, "user_id: input should be a valid string (got None)"),
    ],
)
def test_what_cannot_be_meant_is_named_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        schema(**changes)
    assert str(caught.value).startswith("own.yaml: schema: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_user_and_item_may_share_a_field_name() -> None:
    assert schema(user=["user", "genres"]).user[1].name == "genres"


def test_counting_adds_pair_fields() -> None:
    counted = schema(pair=["badge"]).counting(["genres", "film"])
    assert [(field.name, field.match) for field in counted.pair] == [
        ("badge", None),
        ("genres_matches", "genres"),
        ("film_matches", "film"),
    ]
    assert [field.kind for field in counted.matched_pairs] == ["numeric", "numeric"]
    assert schema().counting(()) == schema()


@pytest.mark.parametrize("fields", [["nothing"], ["genres", "genres"]])
def test_counting_what_cannot_be_counted(fields: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"--match: .*(not a history field|declared twice)"):
        schema().counting(fields)
