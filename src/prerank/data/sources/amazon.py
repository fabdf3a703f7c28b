"""Amazon reviews of 2014, 5-core (J. McAuley et al., SIGIR 2015), as published and in two prepared forms."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from prerank.data.log import RawLog
from prerank.data.sources.columns import is_whole
from prerank.data.sources.files import FilesMissingError, Found, find, find_all, lines, split_lines
from prerank.errors import DataError
from prerank.schema import Field, Schema

REVIEW = {"reviewerID": pl.String(), "asin": pl.String(), "overall": pl.Float64(), "unixReviewTime": pl.Int64()}


def _schema(attribute: Field) -> Schema:
    return Schema(
        user_id="user_id",
        item_id="item_id",
        user=(Field(name="user_id"),),
        item=(Field(name="item_id"), attribute),
        history=("item_id", attribute.name),
    )


CATEGORY_SCHEMA = _schema(Field(name="category"))
ATTRIBUTES_SCHEMA = _schema(Field(name="attributes", kind="multi"))


def read_amazon(name: str, category: str, directory: Path) -> RawLog:
    """The reviews of one product category, in whichever form lies in the folder.

    - ``reviews_<category>_5.json.gz`` and ``meta_<category>.json.gz``: as published; time in seconds, an item's
      category is the last name of its last category path (DIN), null for items that the meta file lacks.
    - ``sequences.txt`` (a line: user, then items oldest first) and ``item2attributes.json``: time is the place
      in the line, from 0.
    - ``train.csv`` (user_id, item_id, time) and ``item_meta.csv`` (item_id, i_category), tab separated.

    Args:
        name: of the source.
        category: as in the published file names, for example ``Electronics``.
        directory: the folder.

    Raises:
        DataError: files are missing or damaged; the message names file and row.
    """
    published = (f"reviews_{category}_5.json", f"meta_{category}.json")
    if find(directory, published[0]):
        reviews, meta = find_all(directory, published)
        return _published(name, reviews.path, meta.path)
    if find(directory, "sequences.txt"):
        return _sequences(name, *find_all(directory, ("sequences.txt", "item2attributes.json")))
    if find(directory, "item_meta.csv"):
        return _numbered(name, *find_all(directory, ("train.csv", "item_meta.csv")))
    raise FilesMissingError(f"{directory}: {' and '.join(published)} not found")


def _published(name: str, reviews: Path, meta: Path) -> RawLog:
    events = pl.concat(_reviews(reviews)).select(
        user="reviewerID", item="asin", time="unixReviewTime", rating="overall"
    )
    bought = events["item"].unique(maintain_order=True)
    categories = _categories(meta, set(bought))
    items = pl.DataFrame({"item_id": bought, "category": [categories.get(asin) for asin in bought]})
    return RawLog(name, CATEGORY_SCHEMA, _users(events), items.cast({"category": pl.String}), events)


def _reviews(path: Path) -> Iterator[pl.DataFrame]:
    """The reviews in portions: one JSON object a line."""
    before = 0
    for portion in lines(path):
        try:
            table = pl.read_ndjson(b"".join(portion), schema=REVIEW)
            broken = table.select(pl.any_horizontal(pl.all().is_null()).any()).item()
        except pl.exceptions.PolarsError:
            broken = True
        if broken:
            raise _first_bad_review(path, portion, before)
        yield table
        before += len(portion)
    if not before:
        raise DataError(f"{path}: is empty")


def _first_bad_review(path: Path, portion: list[bytes], before: int) -> DataError:
    for row, line in enumerate(portion, start=before + 1):
        try:
            review = json.loads(line)
        except ValueError:
            review = None
        if not isinstance(review, dict):
            return DataError(f"{path}: row {row} is not a JSON object")
        for key, dtype in REVIEW.items():
            kinds: type | tuple[type, ...] = str if dtype == pl.String else (int, float)
            if not isinstance(review.get(key), kinds):
                return DataError(
                    f"{path}: row {row}, {key}: {review.get(key)!r} is not {'text' if kinds is str else 'a number'}"
                )
    return DataError(f"{path}: rows {before + 1} to {before + len(portion)} cannot be read as reviews")


def _categories(path: Path, wanted: set[str]) -> dict[str, str | None]:
    """The last category of each wanted item; one item a line."""
    found: dict[str, str | None] = {}
    before = 0
    for portion in lines(path):
        for row, line in enumerate(portion, start=before + 1):
            if _may_be_wanted(line, wanted):
                item = _item(path, row, line)
                if item["asin"] in wanted:
                    paths = item.get("categories") or [[]]
                    found[item["asin"]] = paths[-1][-1] if paths[-1] else None
        before += len(portion)
    return found


def _may_be_wanted(line: bytes, wanted: set[str]) -> bool:
    """False for a line that begins with the id of another item: parsing is what takes the time."""
    start, quote, rest = line[:10], line[9:10], line[10:40]
    if start not in (b"{'asin': '", b'{"asin": "'):
        return bool(line.strip())
    return rest.partition(quote)[0].decode() in wanted


def _item(path: Path, row: int, line: bytes) -> dict[str, Any]:
    """A published meta line is a Python literal, not JSON; some copies were turned into JSON."""
    try:
        text = line.decode()
        item = json.loads(text) if text.startswith('{"') else ast.literal_eval(text)
        if isinstance(item["asin"], str):
            return dict(item)
    except (ValueError, SyntaxError, TypeError, KeyError):
        pass
    raise DataError(f"{path}: row {row} is not an item with an 'asin', written as a Python literal or JSON")


def _sequences(name: str, sequences: Found, attributes: Found) -> RawLog:
    words = pl.Series(sequences.read().decode().splitlines()).str.strip_chars().str.split(" ")
    short = (words.list.len() < 2).arg_true()
    if len(short):
        raise DataError(f"{sequences}: row {short[0] + 1}: a user and at least one item are expected")
    timelines = pl.DataFrame({"user": words.list.first(), "item": words.list.slice(1)})
    timelines = timelines.with_columns(time=pl.int_ranges(pl.col("item").list.len()))
    events = timelines.explode("item", "time")
    listed = _attributes(attributes)
    ids = list(dict.fromkeys([*listed, *events["item"].unique(maintain_order=True)]))
    items = pl.DataFrame({"item_id": ids, "attributes": [listed.get(item, []) for item in ids]})
    if is_whole(items["item_id"]):
        items, events = items.cast({"item_id": pl.Int64}), events.cast({"item": pl.Int64})
    if is_whole(events["user"]):
        events = events.cast({"user": pl.Int64})
    return RawLog(name, ATTRIBUTES_SCHEMA, _users(events), items, events)


def _attributes(found: Found) -> dict[str, list[Any]]:
    try:
        listed = json.loads(found.read())
    except ValueError:
        raise DataError(f"{found}: is not JSON") from None
    if not isinstance(listed, dict):
        raise DataError(f"{found}: an object of item to list of attribute ids is expected")
    for item, ids in listed.items():
        if not isinstance(ids, list) or len({type(one) for one in ids} | {int}) > 1:
            raise DataError(f"{found}: item {item!r}: a list of whole numbers is expected")
    return listed


def _numbered(name: str, train: Found, meta: Found) -> RawLog:
    whole, text = pl.Int64(), pl.String()
    events = split_lines(train, "\t", {"user": whole, "item": whole, "time": whole}, "user_id item_id time")
    columns = {"item_id": whole, "category": whole, "complements": text, "substitutes": text}
    items = split_lines(meta, "\t", columns, "item_id i_category r_complement r_substitute")
    items = items.select("item_id", "category")
    unlisted = events.select(item_id=pl.col("item").unique(maintain_order=True)).join(items, on="item_id", how="anti")
    items = pl.concat([items, unlisted], how="diagonal")
    return RawLog(name, CATEGORY_SCHEMA, _users(events), items, events)


def _users(events: pl.DataFrame) -> pl.DataFrame:
    return events.select(user_id=pl.col("user").unique(maintain_order=True))
