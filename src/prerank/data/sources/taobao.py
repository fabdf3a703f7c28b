"""Taobao display advertising (Alibaba's Ali_Display_Ad_Click): impressions, clicks, and 22 days of behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from prerank.data.log import RawLog
from prerank.data.sources.columns import ALL_FIELDS, Column, Table, unreadable
from prerank.data.sources.files import find_all
from prerank.errors import DataError
from prerank.schema import Field, Schema

# Nothing in these files needs 64 bits but the time, and the behaviour log has 723 million rows.
INT, LONG, TEXT = pl.Int32(), pl.Int64(), pl.String()
IMPRESSION = {"user": INT, "time_stamp": LONG, "adgroup_id": INT, "pid": TEXT, "clk": INT}
AD = {"adgroup_id": INT, "cate_id": INT, "campaign_id": INT, "customer": INT, "brand": INT, "price": pl.Float64()}
PROFILE = ("userid", "cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level", "shopping_level",
           "occupation", "new_user_class_level")  # fmt: skip
REQUIRED = {"user", "userid", "adgroup_id", "time_stamp", "clk"}
BEHAVIOUR = {"user": INT, "time_stamp": LONG, "btag": TEXT, "cate": INT, "brand": INT}

AD_CLICKS_SCHEMA = Schema(
    user_id="userid",
    item_id="adgroup_id",
    user=tuple(Field(name=name) for name in PROFILE),
    item=tuple(Field(name=name, kind="numeric" if name == "price" else "categorical") for name in AD),
    context=(Field(name="pid"),),
    history=("cate_id", "brand"),
)
SCHEMA = AD_CLICKS_SCHEMA.model_copy(update={"history_of": "records"})


def read_taobao(directory: Path) -> RawLog:
    """Impressions labelled by click, with the user's page views as history: category and brand, no item id.

    Reads raw_sample.csv, ad_feature.csv, user_profile.csv and behavior_log.csv, also gzipped. Impressions of
    users without a profile and of ads without features are left out (inner joins), and of the behaviours all but
    page views (``pv``) of the remaining users.

    Raises:
        DataError: a file is missing or damaged; the message names file, row and column.
    """
    samples, ads, profiles, log = _find(directory, "raw_sample", "ad_feature", "user_profile", "behavior_log")
    users, items, events = _tables(samples, ads, profiles)
    is_view = (pl.col("btag") == "pv") & pl.col("user").is_in(events["user"].unique().implode())
    views = _read(log, BEHAVIOUR, is_view, ["user", "time_stamp", "cate", "brand"])
    records = views.rename({"time_stamp": "time", "cate": "cate_id"})
    return RawLog("taobao", SCHEMA, users, items, events, records)


def read_taobao_ad_clicks(directory: Path) -> RawLog:
    """The same impressions with the user's earlier clicked ads as history; behavior_log.csv is not needed.

    Raises:
        DataError: a file is missing or damaged; the message names file, row and column.
    """
    users, items, events = _tables(*_find(directory, "raw_sample", "ad_feature", "user_profile"))
    events = events.with_columns(behaviour=pl.col("label") == 1)
    return RawLog("taobao-ad-clicks", AD_CLICKS_SCHEMA, users, items, events)


def _find(directory: Path, *names: str) -> list[Path]:
    return [found.path for found in find_all(directory, [f"{name}.csv" for name in names])]


def _tables(samples: Path, ads: Path, profiles: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    items = _distinct(_read(ads, AD), "adgroup_id", ads)
    users = _distinct(_read(profiles, dict.fromkeys(PROFILE, INT)), "userid", profiles)
    is_joined = pl.col("user").is_in(users["userid"].implode()) & pl.col("adgroup_id").is_in(
        items["adgroup_id"].implode()
    )
    impressions = _read(samples, IMPRESSION, is_joined)
    if not impressions["clk"].is_in([0, 1]).all():
        table = Table.open(samples.parent, samples.name)
        table.read({"clk": table.flag("clk")})  # names the row
    events = impressions.select("user", "pid", item="adgroup_id", time="time_stamp", label=pl.col("clk").cast(pl.Int8))
    return users, items, events.select("user", "item", "time", "label", "pid")


def _distinct(rows: pl.DataFrame, name: str, path: Path) -> pl.DataFrame:
    again = (~rows[name].is_first_distinct()).arg_true()
    if len(again):
        raise DataError(f"{path}: row {again[0] + 1}, column {name!r}: {rows[name][again[0]]} occurs twice")
    return rows


def _read(
    path: Path, columns: Mapping[str, pl.DataType], where: pl.Expr | None = None, kept: list[str] | None = None
) -> pl.DataFrame:
    """The columns of the rows that fulfil the condition, in file order. ``NULL`` and nothing are missing values."""
    table = Table.open(path.parent, path.name)
    headers = {header.strip(): header for header in table.types}  # one published header ends in a space
    lacking = [name for name in columns if name not in headers]
    if lacking:
        raise DataError(f"{path}: no column {lacking[0]!r}; its columns: {', '.join(headers)}")
    types = {header: columns.get(name, TEXT) for name, header in headers.items()}
    frame = pl.scan_csv(path, schema=types, null_values="NULL").select(
        pl.col(headers[name]).alias(name) for name in columns
    )
    if where is not None:
        frame = frame.filter(where)
    problem = None
    try:
        rows = frame.select(kept or list(columns)).collect(engine="streaming", optimizations=ALL_FIELDS)
        if not any(rows[name].null_count() for name in REQUIRED.intersection(rows.columns)):
            return rows
    except (OSError, pl.exceptions.PolarsError) as error:
        problem = error
    table.read({name: _cast(headers[name], dtype, name in REQUIRED) for name, dtype in columns.items()})
    raise unreadable(path, problem or ValueError("a value is missing"))


def _cast(name: str, dtype: pl.DataType, required: bool) -> Column:
    raw = pl.when(pl.col(name) != "NULL").then(pl.col(name))
    expected = "a number" if dtype.is_float() else "a whole number"
    return Column(name, raw, raw.cast(dtype, strict=False), expected, required)
