import gzip
import json
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from prerank.data.sources import files, open_source
from prerank.errors import DataError


def review(user: str, item: str, time: int, stars: float) -> str:
    """A line as published in reviews_*_5.json.gz."""
    return json.dumps(
        {
            "reviewerID": user,
            "asin": item,
            "reviewerName": 'Ann "A"',
            "helpful": [0, 1],
            "reviewText": "It's good, and \\ so on",
            "overall": stars,
            "summary": "Good",
            "unixReviewTime": time,
            "reviewTime": "06 2, 2013",
        }
    )


# Published meta files are not JSON: single quotes, unless the text has one itself.
META = [
    """{'asin': '0528881469', 'description': "It's a \\"GPS\\"", 'price': 9.99, 'related': {'bought': ['B0']}, """
    """'categories': [['Electronics', 'GPS & Navigation', 'Trucking GPS'], ['Electronics', 'Truck GPS']]}""",
    """{'asin': 'NOTBOUGHT1', 'categories': [['Electronics', 'Never']]}""",
    """{'title': "Kelby's", 'asin': 'B000001111', 'categories': [['Electronics']]}""",
    """{"asin": "B000002222", "categories": [["Electronics", "Cables"]], "price": null}""",
    """{'asin': 'B000003333', 'categories': [[]]}""",
]
REVIEWS = [
    review("A2", "B000001111", 1370131200, 5.0),
    review("A1", "0528881469", 1290643200, 3.0),
    review("A2", "B000002222", 1370131200, 1.0),
    review("A1", "B000003333", 1370131300, 2.0),
    review("A1", "B000004444", 1370131400, 4.0),
]


def publish(folder: Path, reviews: list[str], meta: list[str], category: str = "Electronics") -> None:
    for name, rows in ((f"reviews_{category}_5.json.gz", reviews), (f"meta_{category}.json.gz", meta)):
        (folder / name).write_bytes(gzip.compress(("\n".join(rows) + "\n").encode()))


@pytest.mark.parametrize("portion", [1, 1 << 24])
@pytest.mark.parametrize(("name", "category"), [("amazon-electronics", "Electronics"), ("amazon-books", "Books")])
def test_published_files(
    name: str, category: str, portion: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK", portion)
    publish(tmp_path, REVIEWS, META, category)
    log = open_source(name, tmp_path)
    assert log.name == name
    assert log.users["user_id"].to_list() == ["A2", "A1"]
    assert log.items.rows() == [
        ("B000001111", "Electronics"),
        ("0528881469", "Truck GPS"),
        ("B000002222", "Cables"),
        ("B000003333", None),  # listed without a category
        ("B000004444", None),  # not listed
    ]
    assert log.events.rows() == [
        ("A2", "B000001111", 1370131200, 5.0),
        ("A1", "0528881469", 1290643200, 3.0),
        ("A2", "B000002222", 1370131200, 1.0),
        ("A1", "B000003333", 1370131300, 2.0),
        ("A1", "B000004444", 1370131400, 4.0),
    ]
    assert log.events.schema["time"] == pl.Int64


@pytest.mark.parametrize("portion", [1, 1 << 24])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{not json", "row 6 is not a JSON object"),
        ("[1]", "row 6 is not a JSON object"),
        ('{"reviewerID": "A", "asin": "B", "overall": 5.0}', "row 6, unixReviewTime: None is not a number"),
        (
            '{"reviewerID": null, "asin": "B", "overall": 5.0, "unixReviewTime": 3}',
            "row 6, reviewerID: None is not text",
        ),
        (
            '{"reviewerID": "A", "asin": "B", "overall": 5.0, "unixReviewTime": "x"}',
            "row 6, unixReviewTime: 'x' is not a number",
        ),
    ],
)
def test_a_broken_review_is_named(
    bad: str, message: str, portion: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK", portion)
    publish(tmp_path, [*REVIEWS, bad, REVIEWS[0]], META)
    with pytest.raises(DataError, match=rf"reviews_Electronics_5\.json\.gz: {message}"):
        open_source("amazon-electronics", tmp_path)


@pytest.mark.parametrize("bad", ["{'title': 'no asin'}", "{'asin': 'B000001111', 'categories': [[", "__import__('os')"])
def test_a_broken_item_is_named(bad: str, tmp_path: Path) -> None:
    publish(tmp_path, REVIEWS, [*META, bad])
    with pytest.raises(DataError, match=r"meta_Electronics\.json\.gz: row 6 is not an item"):
        open_source("amazon-electronics", tmp_path)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, REVIEWS, META)
    path = tmp_path / "reviews_Electronics_5.json.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"reviews_Electronics_5\.json\.gz: damaged or cut short"):
        open_source("amazon-electronics", tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["amazon-sports", "amazon-books"])
def test_sequences(name: str, zipped: bool, tmp_path: Path) -> None:
    contents = {"sequences.txt": "7 3 1\n5 1\n", "item2attributes.json": '{"1": [4, 2], "9": []}'}
    for file, text in contents.items():
        path = tmp_path / (f"{file}.gz" if zipped else file)
        path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    log = open_source(name, tmp_path)
    assert log.events.rows() == [(7, 3, 0), (7, 1, 1), (5, 1, 0)]
    assert log.users["user_id"].to_list() == [7, 5]
    assert log.items.rows() == [(1, [4, 2]), (9, []), (3, [])]  # listed ones first; 3 has no attributes


def test_sequences_of_texts_stay_texts(tmp_path: Path) -> None:
    (tmp_path / "sequences.txt").write_text("a 01 2\nb 2\n")
    (tmp_path / "item2attributes.json").write_text('{"01": [1], "2": [1, 2]}')
    log = open_source("amazon-sports", tmp_path)
    assert log.events.rows() == [("a", "01", 0), ("a", "2", 1), ("b", "2", 0)]


@pytest.mark.parametrize(
    ("sequences", "attributes", "message"),
    [
        ("1 2\n3\n", "{}", r"sequences\.txt: row 2: a user and at least one item"),
        ("1 2\n", "[1]", r"item2attributes\.json: an object of item to list"),
        ("1 2\n", '{"2": [1, "x"]}', r"item2attributes\.json: item '2': a list of whole numbers"),
        ("1 2\n", '{"2": 1}', r"item2attributes\.json: item '2': a list of whole numbers"),
        ("1 2\n", "{", r"item2attributes\.json: is not JSON"),
    ],
)
def test_broken_sequences_are_named(sequences: str, attributes: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "sequences.txt").write_text(sequences)
    (tmp_path / "item2attributes.json").write_text(attributes)
    with pytest.raises(DataError, match=message):
        open_source("amazon-sports", tmp_path)


def test_numbered_tables(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("user_id\titem_id\ttime\n5\t2\t100\n4\t8\t50\n")
    (tmp_path / "item_meta.csv").write_text(
        "item_id\ti_category\tr_complement\tr_substitute\n1\t0\t[2, 3]\t[]\n2\t7\t[]\t[]\n"
    )
    log = open_source("amazon-grocery", tmp_path)
    assert log.events.rows() == [(5, 2, 100), (4, 8, 50)]
    assert_frame_equal(log.items, pl.DataFrame({"item_id": [1, 2, 8], "category": [0, 7, None]}))


def test_real_sports(real_data: Path) -> None:
    log = open_source("amazon-sports", real_data / "amazon_sports")
    assert (log.users.height, log.items.height, log.events.height) == (35_598, 18_357, 296_337)
    assert log.items["attributes"].explode().n_unique() == 2277


def test_real_grocery(real_data: Path) -> None:
    log = open_source("amazon-grocery", real_data / "amazon_grocery")
    assert (log.users.height, log.events["item"].n_unique(), log.events.height) == (14_681, 8687, 121_892)
    assert log.items["category"].n_unique() == 57
