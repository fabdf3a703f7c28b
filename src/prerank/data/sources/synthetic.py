"""A small world with a known right answer, for tests and examples."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray
from polars import selectors

from prerank.data.log import Ints, RawLog
from prerank.schema import Field, Schema


def checkerboard(
    users: int = 200,
    items: int = 100,
    events_per_user: int = 12,
    groups: int = 4,
    *,
    seed: int = 0,
    revealed: bool = True,
) -> RawLog:
    """Users and items belong to hidden groups, and a user only ever touches items of the own group.

    Each user touches ``events_per_user`` different items. Histories give the group away, so a model that reads
    them can rank every item of the user's group above all others, and nothing more is there to learn. Against an
    item that the user never touched, drawn uniformly, the best AUC is ``best_auc``.

    Args:
        users: ids 1 to ``users``.
        items: ids "item-0000" and so on, in shuffled order of groups.
        events_per_user: at most the number of items of a group.
        groups: at most the number of items; as equal in size as can be.
        seed: of the world.
        revealed: an item's ``category`` names its group and a user's ``city`` does for half of the users;
            otherwise both are the same for all.

    Returns:
        A log whose times are 0, 1, 2, …, one event at a time, the users taking turns.

    Raises:
        ValueError: a group has fewer items than a user has events.
    """
    if events_per_user > items // groups:
        raise ValueError(f"{events_per_user} events per user need groups of that many items, not {items // groups}")
    rng = np.random.default_rng(seed)
    item_groups = rng.permutation(np.arange(items) % groups)
    user_groups = rng.permutation(np.arange(users) % groups)
    shares = [rng.permutation(np.flatnonzero(item_groups == group))[:events_per_user] for group in user_groups]
    touched = np.stack(shares)
    turns = np.stack([rng.permutation(users) for _ in range(events_per_user)])
    who, what = turns.ravel(), touched[turns, np.arange(events_per_user)[:, None]].ravel()
    ids = np.array([f"item-{number:04}" for number in range(items)])
    tells = revealed & (np.arange(users) % 2 == 0)
    return RawLog(
        name="checkerboard",
        schema=Schema(
            user_id="user_id",
            item_id="item_id",
            user=(Field(name="user_id"), Field(name="city")),
            item=(Field(name="item_id"), Field(name="category")),
            history=("item_id", "category"),
        ),
        users=pl.DataFrame({"user_id": np.arange(1, users + 1), "city": _names("city", user_groups, tells)}),
        items=pl.DataFrame({"item_id": ids, "category": _names("category", item_groups, np.full(items, revealed))}),
        events=pl.DataFrame({"user": who + 1, "item": ids[what], "time": np.arange(len(who))}),
    )


def best_auc(items: int = 100, events_per_user: int = 12, groups: int = 4) -> float:
    """The highest AUC on a checkerboard with uniform unseen negatives.

    A negative of another group can always be ranked below; one of the same group is a coin toss. Exact when
    ``groups`` divides ``items``.
    """
    same = (items / groups - events_per_user) / (items - events_per_user)
    return 1 - same / 2


def write_tables(log: RawLog, directory: Path, form: Literal["parquet", "csv", "csv.gz"] = "parquet") -> Path:
    """Write a log as own tables, as ``read_tables`` reads them.

    Returns:
        The YAML file, ``schema.yaml`` in the same folder.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = {}
    tables = {"users": log.users, "items": log.items, "events": log.events, "records": log.records}
    for name, table in tables.items():
        if table is None:
            continue
        files[name] = f"{name}.{form}"
        if form == "parquet":
            table.write_parquet(directory / files[name])
        else:
            flat = table.with_columns(selectors.list().list.eval(pl.element().cast(pl.String)).list.join("|"))
            text = flat.write_csv().encode()
            (directory / files[name]).write_bytes(gzip.compress(text) if form == "csv.gz" else text)
    roles = ("user", "item", "time", "rating", "label", "stage", "behaviour")
    config = {
        "name": log.name,
        "schema": log.schema.model_dump(mode="json", exclude_defaults=True),
        "tables": files,
        "columns": {role: role for role in roles if role in log.events.columns},
    }
    path = directory / "schema.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    return path


def _names(word: str, groups: Ints, told: NDArray[np.bool_]) -> list[str]:
    return [f"{word}-{group}" if known else f"{word}-any" for group, known in zip(groups, told, strict=True)]
