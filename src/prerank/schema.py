"""What the data's columns mean, declared once: who reads them (user, item, history, context) and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field as Default
from pydantic import field_validator, model_validator

from prerank.config import Strict

Kind = Literal["categorical", "multi", "numeric"]


class Field(Strict):
    """One column that a tower reads.

    ``categorical``: one value a row. ``multi``: a list of values a row (genres), their embeddings averaged.
    ``numeric``: a number, replaced by the quantile bucket that it falls into, which is then embedded.
    """

    name: str
    kind: Kind = "categorical"
    buckets: int = Default(default=20, ge=2, description="numeric only: number of quantile buckets")
    min_count: int = Default(default=1, ge=1, description="rarer values share the out-of-vocabulary row")


class Schema(Strict):
    """The columns of the three tables and of the behaviour history.

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
    history: tuple[str, ...] = ()
    history_of: Literal["items", "records"] = "items"
    title: str | None = Default(default=None, description="item column shown to people; no tower reads it")

    @field_validator("user", "item", "context", mode="before")
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
        return self

    @property
    def history_fields(self) -> tuple[Field, ...]:
        """The item fields that a past item is seen through, in the order of ``history``."""
        by_name = {field.name: field for field in self.item}
        return tuple(by_name[name] for name in self.history)


@dataclass(frozen=True)
class Inputs:
    """What the encoded data looks like to a model.

    Attributes:
        user: user and context field names with their number of ids (the out-of-vocabulary row included).
        item: the same for item fields.
        history: the item fields that a past item is seen through.
        user_id, item_id: the names of the ids, which need not be among the fields.
        history_length: behaviours that a history holds at most.
    """

    user: Mapping[str, int]
    item: Mapping[str, int]
    history: tuple[str, ...]
    user_id: str
    item_id: str
    history_length: int
