"""Own tables: users, items and events in Parquet or CSV files, declared in one YAML file."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from prerank.config import Strict, parse, read_yaml
from prerank.data.log import RawLog
from prerank.data.sources.columns import Column, Table
from prerank.errors import ConfigError
from prerank.schema import Field, Schema


class Files(Strict):
    """The file of each table, relative to the folder of the data."""

    users: str
    items: str
    events: str
    records: str | None = None


class EventColumns(Strict):
    """What the columns of the events table are called."""

    user: str
    item: str
    time: str
    label: str | None = None
    rating: str | None = None
    stage: str | None = None
    behaviour: str | None = None


class TablesConfig(Strict):
    """The YAML file but for its ``schema`` part."""

    name: str = "tables"
    tables: Files
    columns: EventColumns


def read_tables(config_file: Path, directory: Path) -> RawLog:
    """Read own tables; docs/data.md describes them with an example.

    Whole numbers stay numbers, everything else is text. Missing feature values are kept as missing: they become
    out-of-vocabulary. Dates and times become seconds since 1970. With ``label`` the log has given labels, else
    every event is a positive.

    Args:
        config_file: the YAML file with ``schema``, ``tables`` and ``columns``.
        directory: where the tables lie.

    Raises:
        ConfigError: the YAML file is wrong; the message names the key.
        DataError: a table is wrong; the message names file, column and row (the first after a CSV header is row 1).
    """
    config, schema = _read_config(config_file)
    tables = {name: Table.open(directory, file) for name, file in config.tables.model_dump().items() if file}
    users = _entities(tables["users"], schema.user_id, schema.user)
    items = _entities(tables["items"], schema.item_id, schema.item, schema.title)
    events = _events(tables["events"], config.columns, schema, users[schema.user_id], items[schema.item_id])
    records = None
    if "records" in tables:
        records = _records(tables["records"], config.columns, schema, users[schema.user_id])
    return RawLog(config.name, schema, users, items, events, records)


def read_items(path: Path, schema: Schema) -> pl.DataFrame:
    """An item table alone, read as ``read_tables`` reads it; the title may be missing.

    Raises:
        DataError: the table is wrong; the message names file, column and row.
    """
    table = Table.open(path.parent, path.name)
    title = schema.title if schema.title in table.types else None
    return _entities(table, schema.item_id, schema.item, title)


def _read_config(path: Path) -> tuple[TablesConfig, Schema]:
    values = read_yaml(path)
    declared = values.pop("schema", None)
    if not isinstance(declared, dict):
        raise ConfigError(f"{path}: schema: is required, as a mapping of user_id, item_id, user, item and history")
    config, schema = parse(TablesConfig, values, str(path)), parse(Schema, declared, f"{path}: schema")
    sides = {"context": schema.context, "pair": schema.given_pairs}
    names = [(side, field.name) for side, fields in sides.items() for field in fields]
    for side, taken in [pair for pair in names if pair[1] in EventColumns.model_fields][:1]:
        raise ConfigError(f"{path}: schema.{side}: {taken!r} is the name of a built-in column; rename the field")
    if (schema.history_of == "records") != (config.tables.records is not None):
        raise ConfigError(f"{path}: tables.records is required with schema.history_of: records, and only then")
    return config, schema


def _entities(table: Table, id_column: str, fields: tuple[Field, ...], title: str | None = None) -> pl.DataFrame:
    """The users or the items: an id, the fields, and the title if any."""
    columns = {id_column: table.identity(id_column)}
    for field in fields:
        if field.name != id_column:
            columns[field.name] = _feature(table, field)
    if title and title not in columns:
        columns[title] = table.text(title)
    rows = table.read(columns)
    again = (~rows[id_column].is_first_distinct()).arg_true()
    if len(again):
        raise table.error(again[0], id_column, "occurs twice; every row must have an id of its own")
    return rows


def _events(table: Table, names: EventColumns, schema: Schema, users: pl.Series, items: pl.Series) -> pl.DataFrame:
    columns: dict[str, Column] = {
        "user": table.reference(names.user, users, "users"),
        "item": table.reference(names.item, items, "items"),
        "time": table.moment(names.time),
    }
    if names.rating:
        columns["rating"] = table.number(names.rating, required=True)
    if names.label:
        columns["label"] = table.flag(names.label)
    if names.stage:
        columns["stage"] = table.whole(names.stage)
    if names.behaviour:
        columns["behaviour"] = table.flag(names.behaviour)
    columns |= {field.name: _feature(table, field) for field in (*schema.context, *schema.given_pairs)}
    events = table.read(columns)
    _reject_unknown(table, names.user, events["user"], users, "users")
    _reject_unknown(table, names.item, events["item"], items, "items")
    return events.cast({"label": pl.Int8}) if names.label else events


def _records(table: Table, names: EventColumns, schema: Schema, users: pl.Series) -> pl.DataFrame:
    """The behaviours of ``history_of: records``: user and time called as in the events, and the history fields."""
    columns = {"user": table.reference(names.user, users, "users"), "time": table.moment(names.time)}
    columns |= {field.name: _feature(table, field) for field in schema.history_fields}
    records = table.read(columns)
    _reject_unknown(table, names.user, records["user"], users, "users")
    return records


def _feature(table: Table, field: Field) -> Column:
    read = {"categorical": table.category, "multi": table.categories, "numeric": table.number}
    return read[field.kind](field.name)


def _reject_unknown(table: Table, name: str, values: pl.Series, ids: pl.Series, of: str) -> None:
    unknown = (~values.is_in(ids.implode())).arg_true()
    if len(unknown):
        raise table.error(unknown[0], name, f"is not in the {of} table")
