import gzip
import hashlib
import shutil
import sys
import zipfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from prerank.data.log import RawLog
from prerank.data.sources import movielens
from prerank.data.sources.files import FilesMissingError
from prerank.data.sources.movielens import WHEEL, fetch_ml100k, read_ml1m, read_ml100k
from prerank.errors import DataError

FLAGS = {"Comedy": 5, "Drama": 8, "unknown": 0}


def movie(number: int, title: str, *genres: str) -> str:
    flags = ["0"] * 19
    for genre in genres:
        flags[FLAGS[genre]] = "1"
    return f"{number}|{title}|01-Jan-1995||http://us.imdb.com/|" + "|".join(flags) + "\n"


RATINGS = "196\t242\t3\t881250949\n22\t377\t1\t878887116\n196\t377\t5\t881250949\n"
OFFICIAL = {
    "u.data": RATINGS.encode(),
    "u.user": b"196|49|M|writer|55105\n22|25|F|other|T8H1N\n",
    "u.item": (
        movie(242, "Cité, La (1995)", "Comedy", "Drama")
        + movie(377, "Land (1996) (V)", "Drama")
        + movie(267, "unknown", "unknown")
    ).encode("latin-1"),
}
ATOMIC = {
    "ml-100k.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + RATINGS.encode(),
    "ml-100k.user": b"user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    b"196\t49\tM\twriter\t55105\n22\t25\tF\tother\tT8H1N\n",
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "242\tCité, La\t1995\tComedy Drama\n377\tLand (1996)\tV\tDrama\n267\tunknown\tunknown\tunknown\n".encode(),
}


def put(files: dict[str, bytes], folder: Path, form: str) -> None:
    folder.mkdir(exist_ok=True)
    archives = {"zip": ("ml-100k.zip", "ml-100k/"), "wheel": (WHEEL, "recbole/dataset_example/ml-100k/")}
    if form in archives:
        name, prefix = archives[form]
        with zipfile.ZipFile(folder / name, "w") as archive:
            for file, content in files.items():
                archive.writestr(prefix + file, content)
        return
    if form == "unpacked":
        folder = folder / "ml-100k"
        folder.mkdir()
    for file, content in files.items():
        path = folder / (f"{file}.gz" if form == "gzip" else file)
        path.write_bytes(gzip.compress(content) if form == "gzip" else content)


@pytest.mark.parametrize(
    ("files", "form"),
    [
        (OFFICIAL, "plain"),
        (OFFICIAL, "gzip"),
        (OFFICIAL, "unpacked"),
        (OFFICIAL, "zip"),
        (ATOMIC, "plain"),
        (ATOMIC, "wheel"),
    ],
)
def test_every_form_of_ml100k_is_the_same_log(files: dict[str, bytes], form: str, tmp_path: Path) -> None:
    put(files, tmp_path, form)
    log = read_ml100k(tmp_path)
    assert_frame_equal(
        log.users,
        pl.DataFrame(
            {
                "user_id": [196, 22],
                "gender": ["M", "F"],
                "age": [49, 25],
                "occupation": ["writer", "other"],
                "zip3": ["551", "T8H"],
            }
        ),
    )
    assert_frame_equal(
        log.items,
        pl.DataFrame(
            {
                "movie_id": [242, 377, 267],
                "title": ["Cité, La (1995)", "Land (1996) (V)", "unknown"],
                "genres": [["Comedy", "Drama"], ["Drama"], ["unknown"]],
                "year": [1995, 1996, None],
            }
        ),
    )
    assert_frame_equal(
        log.events,
        pl.DataFrame(
            {
                "user": [196, 22, 196],
                "item": [242, 377, 377],
                "time": [881250949, 878887116, 881250949],
                "rating": [3.0, 1.0, 5.0],
            }
        ),
    )


ML1M = {
    "ratings.dat": b"1::10::5::978300760\n1::20::3::978302109\n2::10::4::978298413\n",
    "users.dat": b"1::F::1::10::48067\n2::M::56::16::70072-1234\n",
    "movies.dat": "10::Misérables, Les: a:b (1995)::Drama|Musical\n20::Heat (1995)::Action\n".encode("latin-1"),
}


@pytest.mark.parametrize("form", ["plain", "gzip", "zip"])
def test_ml1m(form: str, tmp_path: Path) -> None:
    put(ML1M, tmp_path, form)
    if form == "zip":
        (tmp_path / "ml-100k.zip").rename(tmp_path / "ml-1m.zip")
    log = read_ml1m(tmp_path)
    assert log.items.rows() == [
        (10, "Misérables, Les: a:b (1995)", ["Drama", "Musical"], 1995),
        (20, "Heat (1995)", ["Action"], 1995),
    ]
    assert log.users.rows() == [(1, "F", 1, 10, "480"), (2, "M", 56, 16, "700")]
    assert log.events.rows() == [(1, 10, 978300760, 5.0), (1, 20, 978302109, 3.0), (2, 10, 978298413, 4.0)]
    assert [field.kind for field in log.schema.user if field.name == "age"] == ["categorical"]


def ranked(folder: Path, times: dict[int, list[int | None]]) -> RawLog:
    """ML-1M with a Parquet of ratings whose rows are in the reverse of their order."""
    rows = [
        {"user_id": user, "movie_id": 10 + rank, "rating": 4, "timestamp": time, "time_rank": rank + 1}
        for user, known in times.items()
        for rank, time in enumerate(known)
    ]
    types = {"user_id": pl.Int16, "movie_id": pl.Int16, "rating": pl.Int8, "timestamp": pl.Int32, "time_rank": pl.Int16}
    pl.DataFrame(rows[::-1], schema=types).write_parquet(folder / "ratings.parquet")
    for name in ("users.dat", "movies.dat"):
        (folder / name).write_bytes(ML1M[name])
    return read_ml1m(folder)


def test_unknown_times_get_stand_ins_between_their_known_neighbours(tmp_path: Path) -> None:
    log = ranked(tmp_path, {1: [None, None, 100, None, None, 102, 102, None, 200], 2: [7, None, None]})
    assert log.events.filter(user=1)["time"].to_list() == [98, 99, 100, 101, 102, 102, 102, 103, 200]
    assert log.events.filter(user=2)["time"].to_list() == [7, 8, 9]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30).filter(
        lambda steps: any(known for _, known in steps)
    )
)
def test_a_stable_sort_by_time_keeps_the_ranks(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool]]
) -> None:
    clock, times = 1000, []
    for step, known in steps:
        clock += step
        times.append(clock if known else None)
    events = ranked(tmp_path_factory.mktemp("ranked"), {1: times}).events
    assert events["item"].to_list() == list(range(10, 10 + len(times)))
    stood_in = events["time"].to_list()
    assert stood_in == sorted(stood_in)
    assert all(time in (None, stand_in) for time, stand_in in zip(times, stood_in, strict=True))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("u.data", b"1\t2\t3\t4\n1\t2\t3\n", r"u\.data: row 2 has 3 fields, 4 are expected"),
        ("u.data", b"1\t2\t3\t4\n1\tx\t3\t4\n", r"u\.data: row 2, column 'item': 'x' is not a whole number"),
        ("u.user", b"", r"u\.user: has no rows"),
        ("ml-100k.inter", b"user_id\titem_id\n1\t2\n", r"ml-100k\.inter: the first line must name the columns"),
        ("ml-100k.item", b"\xff\xfe\n", r"ml-100k\.item: is not utf-8 text"),
    ],
)
def test_a_broken_file_is_named_with_its_row(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    files = OFFICIAL if name in OFFICIAL else ATOMIC
    put({**files, name: content}, tmp_path, "plain")
    with pytest.raises(DataError, match=message):
        read_ml100k(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    put(OFFICIAL, tmp_path, "plain")
    (tmp_path / "u.item").unlink()
    with pytest.raises(FilesMissingError, match=r"u\.item not found"):
        read_ml100k(tmp_path)
    with pytest.raises(FilesMissingError, match=r"ratings\.dat not found"):
        read_ml1m(tmp_path)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    put(OFFICIAL, tmp_path, "gzip")
    whole = (tmp_path / "u.data.gz").read_bytes()
    (tmp_path / "u.data.gz").write_bytes(whole[:-12])
    with pytest.raises(DataError, match=r"u\.data\.gz: damaged or cut short"):
        read_ml100k(tmp_path)
    shutil.rmtree(tmp_path)
    put(OFFICIAL, tmp_path, "zip")
    archive = tmp_path / "ml-100k.zip"
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(DataError, match=r"ml-100k\.zip: damaged or cut short"):
        read_ml100k(tmp_path)


def fake_pip(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A stand-in for the interpreter that runs pip; ``target`` is the folder that it shall download to."""
    script = folder / "python"
    lines = (f"#!{sys.executable}", "import pathlib, sys", "target = pathlib.Path(sys.argv[-2])", body)
    script.write_text("\n".join(lines))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_fetching_says_why_pip_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(tmp_path, monkeypatch, "sys.exit('WARNING: retrying\\nERROR: no such index')")
    with pytest.raises(DataError, match=r"^pip download .*: ERROR: no such index; put .*\.whl or ml-100k.zip into .*$"):
        fetch_ml100k(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_fetching_refuses_another_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(tmp_path, monkeypatch, f"(target / {WHEEL!r}).write_bytes(b'something else')")
    with pytest.raises(DataError, match="SHA-256 differs"):
        fetch_ml100k(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_fetching_keeps_the_wheel_and_does_not_fetch_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(ATOMIC, tmp_path / "published", "wheel")
    published = tmp_path / "published" / WHEEL
    monkeypatch.setattr(movielens, "WHEEL_SHA256", hashlib.sha256(published.read_bytes()).hexdigest())
    fake_pip(
        tmp_path,
        monkeypatch,
        "assert sys.argv[-1] == 'recbole==1.2.1'\n"
        f"(target / {WHEEL!r}).write_bytes(pathlib.Path({str(published)!r}).read_bytes())",
    )
    assert fetch_ml100k(tmp_path / "data") == tmp_path / "data" / WHEEL
    assert read_ml100k(tmp_path / "data").events.height == 3
    fake_pip(tmp_path, monkeypatch, "sys.exit('called again')")
    assert fetch_ml100k(tmp_path / "data") == tmp_path / "data" / WHEEL
    assert [path.name for path in (tmp_path / "data").iterdir()] == [WHEEL]


def test_real_ml100k(real_data: Path) -> None:
    log = read_ml100k(real_data / "ml100k")
    assert (log.users.height, log.items.height, log.events.height) == (943, 1682, 100_000)
    assert log.items.row(0) == (1, "Toy Story (1995)", ["Animation", "Children's", "Comedy"], 1995)
    assert log.items["year"].null_count() == 1  # the film called "unknown"


def test_real_ml1m(real_data: Path) -> None:
    log = read_ml1m(real_data / "ml1m")
    assert (log.users.height, log.items.height, log.events.height) == (6040, 3883, 1_000_209)
    assert log.events["item"].n_unique() == 3706
    places = log.events.with_row_index("place").sort("user", "time", maintain_order=True)["place"]
    assert (places.diff().drop_nulls() == 1).all()
    kept = log.events.filter(pl.col("rating") != 3)
    assert (kept.height, kept["item"].n_unique()) == (739_012, 3668)  # FIT's 3,668 movies
