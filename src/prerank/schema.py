"""What the data's columns mean, declared once: who reads them (user, item, history, context) and how."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as attribute
from typing import Any, Literal, Self

from pydantic import Field as Default
from pydantic import field_validator, model_validator

from prerank.config import Strict, parse
from prerank.errors import ConfigError

Kind = Literal["categorical", "multi", "numeric"]
Form = Literal["buckets", "scale", "autodis"]


class Field(Strict):
    """One column that a model reads.

    ``categorical``: one value a row. ``multi``: a list of values a row (genres), their embeddings averaged.
    ``numeric``: a number, embedded in one of three forms. ``buckets``: the quantile bucket that it falls into has an
    embedding. ``scale``: the standardised number times one learned vector. ``autodis``: a mixture of a few
    embeddings whose weights a small network computes from the number (KDD 2021).
    """

    name: str
    kind: Kind = "categorical"
    numeric: Form = Default(default="buckets", description="numeric only: how the number is embedded")
    buckets: int = Default(default=20, ge=2, description="numeric only: quantile buckets, or embeddings of autodis")
    temperature: float = Default(default=0.1, gt=0, description="autodis only: the lower, the fewer embeddings mix")
    min_count: int = Default(default=1, ge=1, description="rarer values share the out-of-vocabulary row")

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        number = self.kind == "numeric"
        read_by = {
            "numeric": (number, "kind numeric"),
            "buckets": (number and self.numeric != "scale", "numeric buckets or autodis"),
            "temperature": (number and self.numeric == "autodis", "numeric autodis"),
            "min_count": (not number, "kind categorical or multi"),
        }
        for key, (is_read, where) in read_by.items():
            if not is_read and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"field {self.name!r}: {key} is read with {where} only")
        return self


class PairField(Field):
    """A column known of a user and a candidate together, once a request comes.

    Without ``match`` its values come with the events, and with a request. With ``match`` it is a number: how many of
    the behaviours in the visible history share the candidate's value of that history field.
    """

    match: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _counts_are_numbers(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("match") is not None:
            return {"kind": "numeric", **values}
        return values

    @model_validator(mode="after")
    def _matches_are_counted(self) -> Self:
        if self.match is not None and self.kind != "numeric":
            raise ValueError(f"pair field {self.name!r}: match gives a number, so its kind is numeric")
        return self


class Schema(Strict):
    """The columns of the three tables, of the behaviour history, and of pairs of user and candidate.

    A bare name in a list stands for a categorical field. ``history`` names item fields: every past item is
    seen through them, with the same vocabularies and embedding tables as the candidate (DIN; FIT sec. 4.1).
    ``history_of`` says what a timeline is made of: ``items``, so a past item's fields are joined from the item
    table, or ``records`` that carry the fields themselves (Taobao's behaviours have category and brand, no item).
    """

    user_id: str
    item_id: str
    user: tuple[Field, ...]
    item: tuple[Field, ...]
    context: tuple[Field, ...] = ()
    pair: tuple[PairField, ...] = ()
    history: tuple[str, ...] = ()
    history_of: Literal["items", "records"] = "items"
    title: str | None = Default(default=None, description="item column shown to people; no tower reads it")

    @field_validator("user", "item", "context", "pair", mode="before")
    @classmethod
    def _bare_names(cls, fields: Any) -> Any:
        if not isinstance(fields, list | tuple):
            return fields
        return tuple({"name": field} if isinstance(field, str) else field for field in fields)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.user or not self.item:
            raise ValueError("user and item need at least one field each")
        declared = {
            "user and context": [field.name for field in self.user + self.context],
            "item": [field.name for field in self.item],
            "history": list(self.history),
            "context and pair": [field.name for field in (*self.context, *self.pair)],
        }
        for side, names in declared.items():
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice:
                raise ValueError(f"field {twice!r} is declared twice for {side}")
        items = sorted(declared["item"])
        unknown = next((name for name in self.history if name not in items), None)
        if unknown:
            raise ValueError(f"history field {unknown!r} is not an item field; item fields: {', '.join(items)}")
        if not self.history:
            raise ValueError("history needs at least one item field, for example the item id")
        for pair in self.matched_pairs:
            if pair.match not in self.history:
                past = ", ".join(self.history)
                raise ValueError(f"pair field {pair.name!r}: match {pair.match!r} is not a history field: {past}")
            if next(field for field in self.item if field.name == pair.match).kind == "numeric":
                raise ValueError(f"pair field {pair.name!r}: match {pair.match!r} is numeric; categories can match")
        return self

    def counting(self, fields: Sequence[str]) -> Schema:
        """The same schema with a pair field ``FIELD_matches`` for each of these history fields.

        Raises:
            ConfigError: no such history field, a numeric one, or the new name is taken.
        """
        pair = [field.model_dump() for field in self.pair]
        pair += [{"name": f"{field}_matches", "match": field} for field in fields]
        return parse(Schema, {**self.model_dump(), "pair": pair}, "--match")

    @property
    def given_pairs(self) -> tuple[PairField, ...]:
        """The pair fields whose values come with events and requests."""
        return tuple(field for field in self.pair if field.match is None)

    @property
    def matched_pairs(self) -> tuple[PairField, ...]:
        """The pair fields that are counted from the history."""
        return tuple(field for field in self.pair if field.match is not None)

    @property
    def history_fields(self) -> tuple[Field, ...]:
        """The item fields that a past item is seen through, in the order of ``history``."""
        by_name = {field.name: field for field in self.item}
        return tuple(by_name[name] for name in self.history)


@dataclass(frozen=True)
class Scaled:
    """What an encoded column holds: numbers that multiply a vector, NaN where missing."""


@dataclass(frozen=True)
class AutoDis:
    """What an encoded column holds: numbers from -1 to 1 that choose among ``embeddings``, NaN where missing."""

    embeddings: int
    temperature: float


Values = int | Scaled | AutoDis
"""What an encoded column holds; an integer is the number of ids, the out-of-vocabulary row included."""


@dataclass(frozen=True)
class Inputs:
    """What the encoded data looks like to a model.

    Attributes:
        user: user and context field names with what their columns hold.
        item: the same for item fields.
        history: the item fields that a past item is seen through.
        user_id, item_id: the names of the ids, which need not be among the fields.
        history_length: behaviours that a history holds at most.
        pair: pair field names with what their columns hold.
    """

    user: Mapping[str, Values]
    item: Mapping[str, Values]
    history: tuple[str, ...]
    user_id: str
    item_id: str
    history_length: int
    pair: Mapping[str, Values] = attribute(default_factory=dict)

    def only(self, fields: Collection[str]) -> Inputs:
        """The same data seen through the named fields.

        They are ``user.x``, context included, ``history.x``, ``item.x`` and ``pair.x``; of the last none has to stay.
        A history field is an item field whose table it shares, so it needs that one.

        Raises:
            ConfigError: no such field, ``history.x`` without ``item.x``, or a side is left without any.
        """
        unknown = next((name for name in fields if name not in self.names), None)
        if unknown is not None:
            raise ConfigError(f"model.fields: {unknown!r} is not a field; fields: {', '.join(self.names)}")
        kept = {side: [name for name in names if f"{side}.{name}" in fields] for side, names in self._sides}
        for side, names in kept.items():
            if not names and side != "pair":
                raise ConfigError(f"model.fields: none of {side} is left; at least one has to stay")
        alone = next((name for name in kept["history"] if name not in kept["item"]), None)
        if alone is not None:
            raise ConfigError(f"model.fields: history.{alone} needs item.{alone}, whose table it shares")
        return replace(
            self,
            user={name: self.user[name] for name in kept["user"]},
            item={name: self.item[name] for name in kept["item"]},
            history=tuple(kept["history"]),
            pair={name: self.pair[name] for name in kept["pair"]},
        )

    @property
    def names(self) -> tuple[str, ...]:
        """All fields, those of user and context, history, item and pair, with their side before the name."""
        return tuple(f"{side}.{name}" for side, names in self._sides for name in names)

    @property
    def _sides(self) -> tuple[tuple[str, Collection[str]], ...]:
        return ("user", self.user), ("history", self.history), ("item", self.item), ("pair", self.pair)
