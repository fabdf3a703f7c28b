import gzip
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from prerank.data.sources.synthetic import checkerboard, write_tables
from prerank.data.sources.tables import read_tables
from prerank.errors import ConfigError, DataError
from prerank.schema import Field

CONFIG = """
name: shop
schema:
  user_id: user_id
  item_id: sku
  user: [user_id, {name: age, kind: numeric, buckets: 10}, zip]
  item: [sku, {name: tags, kind: multi}, {name: price, kind: numeric}]
  context: [page]
  history: [sku, tags]
  title: title
tables: {users: users.csv, items: items.csv, events: events.csv}
columns: {user: who, item: what, time: when, label: clicked, rating: stars, behaviour: bought}
"""
TABLES = {
    "users.csv": "user_id,age,zip\n1,30,02460\n2,,48067\n",
    "items.csv": 'sku,title,tags,price\na-1,"Shoe, red",red|shoe,9.5\nb-2,,,12\nc-3,Hat,hat,\n',
    "events.csv": "when,what,who,clicked,stars,bought,page\n"
    "100,a-1,2,1,4.5,true,3\n90,b-2,1,0,1,false,\n100,a-1,1,0,2,0,4\n",
}


def write(folder: Path, config: str = CONFIG, **changes: str) -> Path:
    for name, text in {**TABLES, **{f"{key}.csv": value for key, value in changes.items()}}.items():
        (folder / name).write_text(text)
    path = folder / "shop.yaml"
    path.write_text(config)
    return path


def refused(config: Path, folder: Path) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        read_tables(config, folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_csv_tables(tmp_path: Path) -> None:
    log = read_tables(write(tmp_path), tmp_path)
    assert log.name == "shop"
    assert log.users.rows() == [(1, 30.0, "02460"), (2, None, "48067")]  # zip codes are not whole numbers: 02460
    assert log.items.columns == ["sku", "tags", "price", "title"]
    assert log.items.rows() == [
        ("a-1", ["red", "shoe"], 9.5, "Shoe, red"),
        ("b-2", [], 12.0, None),
        ("c-3", ["hat"], None, "Hat"),
    ]
    assert log.events.columns == ["user", "item", "time", "rating", "label", "behaviour", "page"]
    assert log.events.rows() == [
        (2, "a-1", 100, 4.5, 1, True, 3),
        (1, "b-2", 90, 1.0, 0, False, None),
        (1, "a-1", 100, 2.0, 0, False, 4),
    ]


@pytest.mark.parametrize("form", ["parquet", "csv", "csv.gz"])
def test_a_log_survives_the_way_through_tables(form: Any, tmp_path: Path) -> None:
    world = checkerboard(users=20, items=12, events_per_user=3, groups=3)
    log = replace(
        world,
        schema=world.schema.model_copy(update={"item": (*world.schema.item, Field(name="marks", kind="multi"))}),
        items=world.items.with_columns(marks=pl.Series([[1, 2], []] * 6)),
        events=world.events.with_columns(label=pl.lit(1, pl.Int8)),
    )
    back = read_tables(write_tables(log, tmp_path, form), tmp_path)
    assert (back.name, back.schema) == ("checkerboard", log.schema)
    for name in ("users", "items", "events"):
        assert_frame_equal(getattr(back, name), getattr(log, name))


def test_records_are_read_as_their_own_table(tmp_path: Path) -> None:
    config = CONFIG.replace("title: title", "title: title\n  history_of: records").replace(
        "events: events.csv", "events: events.csv, records: records.csv"
    )
    records = "who,when,sku,tags,other\n2,5,gone,red,x\n1,4,a-1,,y\n"
    log = read_tables(write(tmp_path, config, records=records), tmp_path)
    assert log.records is not None
    assert log.records.columns == ["user", "time", "sku", "tags"]
    assert log.records.rows() == [(2, 5, "gone", ["red"]), (1, 4, "a-1", [])]
    write(tmp_path, config, records="who,when,sku,tags\n3,5,a,b\n")
    assert "records.csv: row 1, column 'who': '3' is not in the users table" in refused(
        tmp_path / "shop.yaml", tmp_path
    )


DAY = 86400


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (["1970-01-02", "1970-01-03"], [DAY, 2 * DAY]),
        (["1970-01-02 00:00:01", "1970-01-02T00:00:02.5Z"], [DAY + 1, DAY + 2]),
        ([datetime(1970, 1, 2, 0, 0, 1), None], None),
        ([datetime(1970, 1, 2, 0, 0, 1), datetime(1969, 12, 31, 23, 59, 59)], [DAY + 1, -1]),
        ([datetime(1970, 1, 2, tzinfo=UTC), datetime(1970, 1, 3, tzinfo=UTC)], [DAY, 2 * DAY]),
        ([date(1970, 1, 2), date(1970, 1, 1)], [DAY, 0]),
        ([7.0, 8.0], [7, 8]),
        (["7", "8"], [7, 8]),
        ([True, False], None),
        ([[1], [2]], None),
    ],
)
def test_times(times: list[Any], seconds: list[int] | None, tmp_path: Path) -> None:
    write_tables(checkerboard(2, 2, 1, 2), tmp_path)
    events = pl.read_parquet(tmp_path / "events.parquet")
    events.with_columns(time=pl.Series(times)).write_parquet(tmp_path / "events.parquet")
    if seconds is None:
        assert "column 'time'" in refused(tmp_path / "schema.yaml", tmp_path)
    else:
        log = read_tables(tmp_path / "schema.yaml", tmp_path)
        assert log.events["time"].to_list() == seconds
        assert log.events.schema["time"] == pl.Int64


def test_parquet_types(tmp_path: Path) -> None:
    path = write(tmp_path, CONFIG.replace(".csv", ".parquet"))
    users = {
        "user_id": pl.Series([1, 2], dtype=pl.UInt16),
        "age": [float("nan"), 4.0],
        "zip": pl.Series(["02460", None], dtype=pl.Categorical),
    }
    items = {"sku": ["5", "6"], "title": ["x", "y"], "tags": [[1, None], None], "price": [1, 2]}
    events = {
        "when": [1, 2],
        "what": ["6", "5"],
        "who": [2, 1],
        "clicked": [True, False],
        "stars": [1, 2],
        "bought": [1, 0],
        "page": [True, None],
    }
    for name, table in (("users", users), ("items", items), ("events", events)):
        pl.DataFrame(table).write_parquet(tmp_path / f"{name}.parquet")
    log = read_tables(path, tmp_path)
    assert log.users.rows() == [(1, None, "02460"), (2, 4.0, None)]
    assert log.items.rows() == [("5", [1], 1.0, "x"), ("6", [], 2.0, "y")]  # text stays text in Parquet
    assert log.events.rows() == [(2, "6", 1, 1.0, 1, True, 1), (1, "5", 2, 2.0, 0, False, None)]


@given(
    st.lists(st.integers(-(10**17), 10**17), min_size=1, unique=True)
    | st.lists(st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1), min_size=1, unique=True)
)
def test_ids_keep_their_type_and_value_in_csv(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int] | list[str]
) -> None:
    folder = tmp_path_factory.mktemp("ids")
    path = write(folder)
    pl.DataFrame({"user_id": ids, "age": 1, "zip": "x"}).write_csv(folder / "users.csv")
    events = {"who": ids, "what": "a-1", "when": 1, "clicked": 0, "stars": 1, "bought": 0, "page": "p"}
    pl.DataFrame(events).write_csv(folder / "events.csv")
    log = read_tables(path, folder)
    same = [str(value) for value in ids]
    assert [str(value) for value in log.users["user_id"]] == same
    assert [str(value) for value in log.events["user"]] == same
    assert log.events["user"].dtype == log.users["user_id"].dtype
    assert all(isinstance(value, int) for value in log.users["user_id"]) or isinstance(ids[0], str)


EVENTS = TABLES["events.csv"]


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("users", "user_id,age,zip\n1,30,x\n,31,y\n", "users.csv: row 2, column 'user_id': is missing"),
        ("users", "user_id,age,zip\n1,3,x\n2,3,y\n1,4,z\n", "users.csv: row 3, column 'user_id': '1' occurs twice"),
        ("users", "user_id,zip\n1,30\n", "users.csv: no column 'age'; its columns: user_id, zip"),
        ("users", "user_id,age,zip\n1,old,x\n", "users.csv: row 1, column 'age': 'old' is not a number"),
        ("users", "user_id,age,zip\n1,nan,x\n", "users.csv: row 1, column 'age': 'nan' is not a number"),
        ("users", "user_id,age,zip\n1,30,x\n2,30,1.5,x\n", "users.csv: row 2 has 4 fields, the header has 3"),
        ("users", "user_id,age,zip\n", "users.csv: has no rows"),
        ("users", "", "users.csv: cannot be read"),
        ("users", "user_id,age,zip\n1,3,4.5\n2,3,7\n", "users.csv: column 'zip' holds numbers with decimals"),
        ("events", EVENTS.replace("90,b-2,1", "90,b-2,7"), "events.csv: row 2, column 'who': '7' is not in the users"),
        ("events", EVENTS.replace("90,b-2", "90,b-9"), "events.csv: row 2, column 'what': 'b-9' is not in the items"),
        ("events", EVENTS.replace("90,b-2,1", "90,b-2,x"), "events.csv: row 2, column 'who': 'x' is not in the users"),
        ("events", EVENTS.replace("90,b-2,1", "90,b-2,"), "events.csv: row 2, column 'who': is missing"),
        ("events", EVENTS.replace("90,", ","), "events.csv: row 2, column 'when': is missing"),
        ("events", EVENTS.replace("90,", "9.5,"), "events.csv: row 2, column 'when': '9.5' is not a whole number of"),
        ("events", EVENTS.replace("90,", "noon,"), "events.csv: row 2, column 'when': 'noon' is not a whole number of"),
        ("events", EVENTS.replace("1,0,1,", "1,2,1,"), "events.csv: row 2, column 'clicked': '2' is not 0 or 1"),
        ("events", EVENTS.replace("1,0,1,", "1,0,good,"), "events.csv: row 2, column 'stars': 'good' is not a number"),
        ("events", EVENTS.replace("1,0,1,", "1,0,,"), "events.csv: row 2, column 'stars': is missing"),
        ("events", EVENTS.replace("false", "maybe"), "events.csv: row 2, column 'bought': 'maybe' is not 0 or 1"),
        ("events", EVENTS.replace("page\n", "pages\n"), "events.csv: no column 'page'"),
        ("events", EVENTS.replace("1,0,1,false,", "1,0,1,false,,,8"), "events.csv: row 2 has 9 fields"),
    ],
)
def test_a_wrong_value_is_named_by_file_row_and_column(table: str, text: str, message: str, tmp_path: Path) -> None:
    assert message in refused(write(tmp_path, **{table: text}), tmp_path)


@pytest.mark.parametrize(
    ("table", "column", "values", "message"),
    [
        ("users", "user_id", [1.0, 2.0], "users.parquet: column 'user_id' holds numbers with decimals"),
        ("users", "city", [1.0, None], "users.parquet: column 'city' holds numbers with decimals, but is declared cat"),
        ("users", "city", [[1], [2]], "users.parquet: column 'city' is List(Int64); categorical takes integers"),
        ("items", "tags", ["a", "b"], "items.parquet: column 'tags' is String, but is declared multi; a list column"),
        ("items", "tags", [[1.5], [2.0]], "items.parquet: column 'tags' is List(Float64), but is declared multi"),
        ("items", "price", ["1", "x"], "items.parquet: row 2, column 'price': 'x' is not a number"),
        ("items", "price", [[1], [2]], "items.parquet: column 'price' is List(Int64), a number is expected"),
        ("events", "user", [1.0, 2.0], "events.parquet: column 'user' is Float64; the users table has Int64 ids"),
        ("events", "user", [2, None], "events.parquet: row 2, column 'user': is missing"),
        ("events", "time", [1.0, 1.5], "events.parquet: row 2, column 'time': 1.5 is not a whole number"),
        ("events", "label", [1, 2], "events.parquet: row 2, column 'label': 2 is not 0 or 1"),
        ("events", "label", [0.0, None], "events.parquet: row 2, column 'label': is missing"),
        ("events", "label", ["1", "yes"], "events.parquet: row 2, column 'label': 'yes' is not 0 or 1"),
    ],
)
def test_a_wrong_type_is_named(table: str, column: str, values: list[Any], message: str, tmp_path: Path) -> None:
    path = write_tables(checkerboard(2, 2, 1, 2), tmp_path)
    config = yaml.safe_load(path.read_text())
    config["schema"]["item"] += [{"name": "tags", "kind": "multi"}, {"name": "price", "kind": "numeric"}]
    config["columns"]["label"] = "label"
    path.write_text(yaml.safe_dump(config))
    extra: dict[str, dict[str, list[Any]]] = {
        "items": {"tags": [["x"], ["y"]], "price": [1, 2]},
        "events": {"label": [0, 1]},
        "users": {},
    }
    for name, columns in extra.items():
        change = {column: values} if name == table else {}
        frame = pl.read_parquet(tmp_path / f"{name}.parquet")
        series = [pl.Series(key, value) for key, value in {**columns, **change}.items()]
        frame.with_columns(series).write_parquet(tmp_path / f"{name}.parquet")
    assert message in refused(path, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("users: users.csv", "users: people.csv", "people.csv: no such file"),
        ("users: users.csv", "users: shop.yaml", "shop.yaml: a .parquet, .csv or .csv.gz file is expected"),
        ("users: users.csv, ", "", "shop.yaml: tables.users: is required"),
        ("rating: stars", "ratings: stars", "shop.yaml: columns.ratings: unknown key; did you mean 'rating'?"),
        ("schema:", "shema:", "shop.yaml: schema: is required"),
        ("title: title", "titel: title", "shop.yaml: schema: titel: unknown key; did you mean 'title'?"),
        ("context: [page]", "context: [label]", "shop.yaml: schema.context: 'label' is the name of a built-in column"),
        ("context: [page]", "pair: [rating]", "shop.yaml: schema.pair: 'rating' is the name of a built-in column"),
        ("title: title", "history_of: records", "shop.yaml: tables.records is required with schema.history_of"),
        ("events: events.csv", "events: events.csv, records: r.csv", "shop.yaml: tables.records is required with"),
        ("history: [sku, tags]", "history: [sku, color]", "shop.yaml: schema: configuration: history field 'color'"),
    ],
)
def test_a_wrong_configuration_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in CONFIG
    assert message in refused(write(tmp_path, CONFIG.replace(old, new)), tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, CONFIG.replace("events.csv", "events.csv.gz"))
    (tmp_path / "events.csv.gz").write_bytes(gzip.compress(EVENTS.encode())[:-9])
    assert "events.csv.gz: cannot be read" in refused(path, tmp_path)
    write(tmp_path, CONFIG.replace("events.csv", "events.parquet"))
    (tmp_path / "events.parquet").write_bytes(b"PAR1 not parquet PAR1")
    assert "events.parquet: cannot be read" in refused(path, tmp_path)
    write(tmp_path)
    (tmp_path / "events.csv").write_bytes(EVENTS.replace("b-2", "\xff\xfe").encode("latin-1"))
    assert "events.csv: cannot be read (" in refused(path, tmp_path)


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    blocks = re.findall(r"^`([\w.]+)`\n```\w+\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["shop.yaml", "users.csv", "items.csv", "events.csv"]
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    log = read_tables(tmp_path / "shop.yaml", tmp_path)
    assert log.events.columns == ["user", "item", "time", "label", "page", "distance"]
    assert log.events.rows()[1:] == [
        (1, "b-2", 1_714_979_289, 0, "home", None),
        (2, "b-2", 1_715_076_000, 1, "search", 14.0),
    ]
    assert [(field.name, field.kind, field.match) for field in log.schema.pair] == [
        ("distance", "numeric", None),
        ("category_matches", "numeric", "category"),
    ]
    assert log.items.rows()[0] == ("a-1", "shoes", ["red", "sport"], 59.9, "Red shoe")
