"""The only code that turns raw values into tensors: for training tables, for the catalogue and for requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from prerank.batch import Features, Ragged
from prerank.data.log import Dataset
from prerank.data.matches import count_matches
from prerank.data.numbers import Buckets, Numbers, fit_numbers, restore_numbers
from prerank.data.raw_values import column_numbers, column_of, listed, number, single
from prerank.data.vocabulary import UNKNOWN, Vocabulary, text, texts
from prerank.errors import ArtefactError, RequestError
from prerank.schema import AutoDis, Field, Inputs, Scaled, Schema, Values

Side = Literal["user", "context", "item", "history", "match", "pair"]
Coder = Vocabulary | Numbers
SAMPLE = 20_000  # training requests that counted pair features are fitted on
CHUNK = 1_000_000  # values that are Python objects at one time


class Encoder:
    """A schema with the coders of its fields, fitted on the training part.

    History fields are item fields: a past item and a candidate share vocabularies (and so embedding tables).
    """

    def __init__(self, schema: Schema, history: int, coders: Mapping[str, Coder]) -> None:
        """Hold fitted coders.

        Args:
            schema: the fields.
            history: behaviours kept, the most recent ones.
            coders: one for each ``side.field`` of user, context, item and pair.
        """
        self.schema = schema
        self.history = history
        self.coders = dict(coders)

    @classmethod
    def fit(cls, dataset: Dataset) -> Encoder:
        """Learn vocabularies, bucket edges and scales from the training part only."""
        train = dataset.parts["train"]
        visited = np.bincount(train.users, minlength=dataset.users.height)
        offered = np.bincount(train.items.ravel(), minlength=dataset.items.height)
        remembered = _visible_behaviours(dataset)
        schema = dataset.schema
        coders: dict[str, Coder] = {}
        for field in schema.user:
            coders[f"user.{field.name}"] = _fit(field, [(column_of(dataset.users, field, "user"), visited)])
        for field in schema.context:
            assert train.context is not None
            everywhere = np.ones(len(train), dtype=np.int64)
            coders[f"context.{field.name}"] = _fit(field, [(column_of(train.context, field, "context"), everywhere)])
        for field in schema.item:
            seen = [(column_of(dataset.items, field, "item"), offered)]
            if field.name in schema.history:
                seen.append((column_of(dataset.behaviours, field, "history"), remembered))
            coders[f"item.{field.name}"] = _fit(field, seen)
        for pair in schema.given_pairs:
            assert train.pairs is not None
            everywhere = np.ones(train.pairs.height, dtype=np.int64)
            coders[f"pair.{pair.name}"] = _fit(pair, [(column_of(train.pairs, pair, "pair"), everywhere)])
        encoder = cls(schema, dataset.protocol.history, coders)
        for name, counts in encoder._training_matches(dataset).items():
            field = next(pair for pair in schema.pair if pair.name == name)
            encoder.coders[f"pair.{name}"] = _fit(field, [(pl.Series(counts.numpy()), np.ones(len(counts), np.int64))])
        return encoder

    @property
    def inputs(self) -> Inputs:
        """What a model has to know of the data."""
        user = {f.name: self._values("user", f) for f in self.schema.user}
        return Inputs(
            user={**user, **{f.name: self._values("context", f) for f in self.schema.context}},
            item={f.name: self._values("item", f) for f in self.schema.item},
            history=self.schema.history,
            user_id=self.schema.user_id,
            item_id=self.schema.item_id,
            history_length=self.history,
            pair={f.name: self._values("pair", f) for f in self.schema.pair},
        )

    @property
    def match_fields(self) -> tuple[Field, ...]:
        """The history fields that pair features count matches of."""
        names = {pair.match for pair in self.schema.matched_pairs}
        return tuple(field for field in self.schema.history_fields if field.name in names)

    def fields(self, side: Side) -> tuple[Field, ...]:
        """The fields of one side, in the order of the schema."""
        return {
            "user": self.schema.user,
            "context": self.schema.context,
            "item": self.schema.item,
            "history": self.schema.history_fields,
            "match": self.match_fields,
            "pair": self.schema.given_pairs,
        }[side]

    def encode(self, side: Side, table: pl.DataFrame) -> Features:
        """Encode every row of a table.

        Raises:
            DataError: a column is missing or its type does not fit the field's kind.
        """
        columns = {
            field.name: self._encode_column(side, field, column_of(table, field, side)) for field in self.fields(side)
        }
        return Features(columns, table.height)

    def encode_values(self, side: Side, rows: Sequence[Mapping[str, Any]]) -> Features:
        """Encode rows of a request; a missing field is unknown, an id that is not a field is passed over.

        Raises:
            RequestError: a key that the schema does not know, or a value of the wrong kind; the field is named.
        """
        fields = self.fields(side)
        ids = {"user": {self.schema.user_id}, "context": set[str]()}.get(side, {self.schema.item_id})
        known = {field.name for field in fields} | ids
        for row in rows:
            unknown = next((key for key in row if key not in known), None)
            if unknown is not None:
                raise RequestError(f"{side}.{unknown}: unknown field; fields: {', '.join(sorted(known))}")
        columns = {
            field.name: self._encode_list(side, field, [row.get(field.name) for row in rows]) for field in fields
        }
        return Features(columns, len(rows))

    def encode_pairs(self, columns: Mapping[str, Sequence[Any]], count: int) -> Features:
        """Encode the pair features that come with a request, (count,) values of each; a missing field is unknown.

        Raises:
            RequestError: a field that is none or that is counted from the history, or a value of the wrong kind.
        """
        fields = {field.name: field for field in self.schema.given_pairs}
        for name in columns:
            if any(field.name == name for field in self.schema.matched_pairs):
                raise RequestError(f"pairs.{name}: is counted from the history, it is not given")
            if name not in fields:
                raise RequestError(f"pairs.{name}: unknown field; fields: {', '.join(sorted(fields)) or 'none'}")
        empty = [None] * count
        return Features(
            {name: self._encode_list("pair", field, columns.get(name, empty)) for name, field in fields.items()}, count
        )

    def matches(self, past: Features, steps: Ragged, items: Features) -> Features:
        """The pair features that are counted from histories.

        Args:
            past: M behaviours, with at least the matched fields.
            steps: B histories as row numbers of ``past``, no longer than ``history``.
            items: B * C candidates, likewise.
        """
        columns: dict[str, torch.Tensor | Ragged] = {}
        for name, counts in self._counts(past, steps, items).items():
            coder = self.coders[f"pair.{name}"]
            assert not isinstance(coder, Vocabulary)
            columns[name] = torch.from_numpy(coder.encode(counts.double().numpy()))
        return Features(columns, items.rows)

    def state(self) -> tuple[pl.DataFrame, dict[str, list[float]]]:
        """The vocabularies as a table (field, value) in id order, and the fitted numbers of numeric fields."""
        vocabularies = {name: coder for name, coder in self.coders.items() if isinstance(coder, Vocabulary)}
        values = [(name, value) for name, vocabulary in vocabularies.items() for value in vocabulary.values]
        table = pl.DataFrame(values, schema={"field": pl.String, "value": pl.String}, orient="row")
        numbers = {name: coder.state for name, coder in self.coders.items() if not isinstance(coder, Vocabulary)}
        return table, numbers

    @classmethod
    def restore(cls, schema: Schema, history: int, table: pl.DataFrame, numbers: Mapping[str, list[float]]) -> Encoder:
        """The encoder whose ``state`` was saved.

        Raises:
            ArtefactError: a numeric field has no fitted numbers.
        """
        values = {str(key[0]): group["value"].to_list() for key, group in table.group_by("field", maintain_order=True)}
        coders: dict[str, Coder] = {}
        for side, fields in (
            ("user", schema.user),
            ("context", schema.context),
            ("item", schema.item),
            ("pair", schema.pair),
        ):
            for field in fields:
                name = f"{side}.{field.name}"
                if field.kind != "numeric":
                    coders[name] = Vocabulary(values.get(name, []))
                elif name in numbers:
                    coders[name] = restore_numbers(field, numbers[name])
                else:
                    raise ArtefactError(f"encoder: numeric field {name} has no fitted numbers")
        return cls(schema, history, coders)

    def _counts(self, past: Features, steps: Ragged, items: Features) -> dict[str, torch.Tensor]:
        return {
            pair.name: count_matches(past.columns[pair.match], steps, items.columns[pair.match])
            for pair in self.schema.matched_pairs
            if pair.match is not None
        }

    def _training_matches(self, dataset: Dataset) -> dict[str, torch.Tensor]:
        """The counts of an even sample of the training requests."""
        if not self.schema.matched_pairs:
            return {}
        train = dataset.parts["train"]
        rows = np.unique(np.linspace(0, len(train) - 1, SAMPLE).astype(np.int64))
        entries, lengths = dataset.timelines.windows(train.users[rows], train.ends[rows], self.history)
        past, items = self.encode("match", dataset.behaviours), self.encode("match", dataset.items)
        offered = torch.from_numpy(train.items[rows].ravel().astype(np.int64))
        return self._counts(past, Ragged(torch.from_numpy(entries), _offsets(lengths)), items.take(offered))

    def _coder(self, side: Side, field: Field) -> Coder:
        return self.coders[f"{'item' if side in ('history', 'match') else side}.{field.name}"]

    def _values(self, side: Side, field: Field) -> Values:
        coder = self._coder(side, field)
        if isinstance(coder, Vocabulary | Buckets):
            return coder.size
        return Scaled() if field.numeric == "scale" else AutoDis(field.buckets, field.temperature)

    def _encode_column(self, side: Side, field: Field, column: pl.Series) -> torch.Tensor | Ragged:
        coder = self._coder(side, field)
        if not isinstance(coder, Vocabulary):
            return torch.from_numpy(coder.encode(column_numbers(column)))
        if field.kind == "multi":
            lengths = column.list.len().fill_null(0).to_numpy().astype(np.int64)
            flat = texts(column.filter(lengths > 0)).explode(empty_as_null=True)
            return Ragged(torch.from_numpy(_ids(coder, flat)), _offsets(lengths))
        return torch.from_numpy(_ids(coder, texts(column)))

    def _encode_list(self, side: Side, field: Field, values: Sequence[Any]) -> torch.Tensor | Ragged:
        coder, place = self._coder(side, field), f"{side}.{field.name}"
        if not isinstance(coder, Vocabulary):
            numbers = np.array([number(value, place) for value in values], dtype=np.float64)
            return torch.from_numpy(coder.encode(numbers))
        if field.kind == "multi":
            lists = [listed(value, place) for value in values]
            flat = [text(single(value, place)) for row in lists for value in row]
            return Ragged(
                torch.from_numpy(coder.ids(flat, len(flat))),
                _offsets(np.array([len(row) for row in lists], dtype=np.int64)),
            )
        return torch.from_numpy(coder.ids([text(single(value, place)) for value in values], len(values)))


def unknown_share(features: Features, counts: NDArray[np.int64]) -> dict[str, float]:
    """Of each field, the share of values that are unknown or missing, where row r occurs ``counts[r]`` times."""
    shares = {}
    for name, column in features.columns.items():
        if isinstance(column, Ragged):
            values, weights = column.values, counts[column.owners.numpy()]
        else:
            values, weights = column, counts
        unknown = values.isnan() if values.is_floating_point() else values == UNKNOWN
        shares[name] = float(weights[unknown.numpy()].sum() / max(1, weights.sum()))
    return shares


def _visible_behaviours(dataset: Dataset) -> NDArray[np.int64]:
    """How often each behaviour lies on a timeline before its user's latest training event."""
    timelines, train = dataset.timelines, dataset.parts["train"]
    last = np.array(timelines.offsets[:-1])
    np.maximum.at(last, train.users, train.ends)
    visible = np.arange(len(timelines.entries)) < np.repeat(last, np.diff(timelines.offsets))
    return np.bincount(timelines.entries[visible], minlength=dataset.behaviours.height)


def _fit(field: Field, seen: Sequence[tuple[pl.Series, NDArray[np.int64]]]) -> Coder:
    if field.kind == "numeric":
        numbers = np.concatenate([column_numbers(values) for values, _ in seen])
        return fit_numbers(field, pl.Series(numbers), np.concatenate([counts for _, counts in seen]))
    values = pl.concat([texts(values).rename("value") for values, _ in seen])
    return Vocabulary.fit(values, np.concatenate([counts for _, counts in seen]), field.min_count)


def _ids(vocabulary: Vocabulary, column: pl.Series) -> NDArray[np.int64]:
    slices = (column.slice(start, CHUNK) for start in range(0, len(column), CHUNK))
    parts = [vocabulary.ids(part.to_list(), len(part)) for part in slices]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _offsets(lengths: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]))
