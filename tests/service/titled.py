"""A published world with titles, a field of each kind, and names that a page must not take for markup."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
from tests.service.conftest import publish

from prerank.data.build import build
from prerank.data.protocol import preset
from prerank.data.sources.synthetic import checkerboard
from prerank.schema import Field, Schema

TITLE = "<b onclick=alert(1)>bold</b>"
"""Of the item item-0000."""


def publish_titled(to: Path) -> Path:
    """The checkerboard with titles, a multi field of users and a numeric one of context."""
    log = checkerboard(users=60, items=80, events_per_user=12, seed=3)
    schema = Schema.model_validate(
        {
            **log.schema.model_dump(exclude_unset=True),
            "user": [*log.schema.user, Field(name="tags", kind="multi")],
            "context": [Field(name="hour", kind="numeric")],
            "title": "title",
        }
    )
    title = pl.when(pl.col("item_id") == "item-0000").then(pl.lit(TITLE)).otherwise(pl.lit("The ") + pl.col("item_id"))
    titled = replace(
        log,
        schema=schema,
        users=log.users.with_columns(tags=pl.concat_list(pl.lit("a"), pl.lit("b"))),
        items=log.items.with_columns(title=title),
        events=log.events.with_columns(hour=pl.col("time") % 24),
    )
    return publish(build(titled, preset("din", ["test_size=2"])), to)
