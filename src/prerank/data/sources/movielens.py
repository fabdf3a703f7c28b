"""MovieLens-100K and MovieLens-1M (F. M. Harper, J. A. Konstan: The MovieLens Datasets, ACM TiiS 2015)."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl

from prerank.data.log import RawLog
from prerank.data.sources.files import Found, find, find_all, split_lines
from prerank.errors import DataError
from prerank.schema import Field, Schema

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip

WHEEL = "recbole-1.2.1-py3-none-any.whl"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"

ATOMIC_HEADERS = {
    "inter": "user_id:token item_id:token rating:float timestamp:float",
    "item": "item_id:token movie_title:token_seq release_year:token class:token_seq",
    "user": "user_id:token age:token gender:token occupation:token zip_code:token",
}
ML1M_ARCHIVE = "ml-1m.zip"

INT, TEXT, REAL = pl.Int64(), pl.String(), pl.Float64()
RATING = {"user": INT, "item": INT, "rating": REAL, "time": INT}
MOVIE_FIELDS = (Field(name="movie_id"), Field(name="genres", kind="multi"), Field(name="year"))


def _schema(age: Field) -> Schema:
    profile = (Field(name="gender"), age, Field(name="occupation"), Field(name="zip3"))
    return Schema(
        user_id="user_id",
        item_id="movie_id",
        user=(Field(name="user_id"), *profile),
        item=MOVIE_FIELDS,
        history=("movie_id", "genres"),
        title="title",
    )


# ML-100K gives the age in years; ML-1M one of seven brackets, named by its lower end.
ML100K_SCHEMA = _schema(Field(name="age", kind="numeric", buckets=10))
ML1M_SCHEMA = _schema(Field(name="age"))


def read_ml100k(directory: Path) -> RawLog:
    """MovieLens-100K: 943 users, 1,682 movies, 100,000 ratings, times in seconds.

    Reads u.data, u.item and u.user (also gzipped, or inside ml-100k.zip), or the same data in RecBole's atomic
    form: ml-100k.inter, .item and .user, also inside the wheel of recbole 1.2.1.

    Raises:
        DataError: files are missing or damaged; the message names file, row and column.
    """
    profile = {"user_id": INT, "age": INT, "gender": TEXT, "occupation": TEXT, "zip": TEXT}
    if find(directory, "ml-100k.inter", WHEEL) and not find(directory, "u.data", "ml-100k.zip"):
        ratings, movies, people = find_all(directory, [f"ml-100k.{kind}" for kind in ATOMIC_HEADERS], WHEEL)
        events = split_lines(ratings, "\t", RATING, ATOMIC_HEADERS["inter"])
        items = _items_with_classes(movies)
        users = split_lines(people, "\t", profile, ATOMIC_HEADERS["user"])
    else:
        ratings, movies, people = find_all(directory, ["u.data", "u.item", "u.user"], "ml-100k.zip")
        events = split_lines(ratings, "\t", RATING)
        items = _items_with_flags(movies)
        users = split_lines(people, "|", profile)
    return _log("ml-100k", ML100K_SCHEMA, users, items, events)


def read_ml1m(directory: Path) -> RawLog:
    """MovieLens-1M: 6,040 users, 3,883 listed movies, 1,000,209 ratings.

    Reads ratings.dat, users.dat and movies.dat (also gzipped, or inside ml-1m.zip). Instead of ratings.dat a
    ratings.parquet is read too, in which each rating has its rank in the user's order and some have no time.
    Those get stand-ins between their known neighbours, one second apart where there is room: they carry the
    order and nothing else, and must not be read as a clock. Events of that form come ordered by user and rank,
    so a stable sort by user and time keeps the ranks.

    Raises:
        DataError: files are missing or damaged; the message names file, row and column.
    """
    ranked = find(directory, "ratings.parquet")
    if find(directory, "ratings.dat", ML1M_ARCHIVE) or not ranked:
        events = split_lines(find_all(directory, ["ratings.dat"], ML1M_ARCHIVE)[0], "::", RATING)
    else:
        events = _ranked_ratings(ranked.path)
    people, movies = find_all(directory, ["users.dat", "movies.dat"], ML1M_ARCHIVE)
    profile = {"user_id": INT, "gender": TEXT, "age": INT, "occupation": INT, "zip": TEXT}
    items = split_lines(movies, "::", {"movie_id": INT, "title": TEXT, "genres": TEXT}, encoding="latin-1")
    return _log(
        "ml-1m",
        ML1M_SCHEMA,
        users=split_lines(people, "::", profile),
        items=items.with_columns(pl.col("genres").str.split("|")),
        events=events,
    )


def fetch_ml100k(directory: Path) -> Path:
    """Fetch ML-100K with pip, for machines that reach a package index and nothing else.

    The wheel of recbole 1.2.1 carries the data as an example. Nothing is installed from it.

    Returns:
        The wheel in ``directory``; one that is there already is only checked.

    Raises:
        DataError: pip fails, or the wheel has another checksum than the published one.
    """
    wheel = directory / WHEEL
    if not wheel.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".fetch-") as target:
            _pip_download(Path(target), directory)
            _check_wheel(Path(target) / WHEEL)
            (Path(target) / WHEEL).replace(wheel)
    _check_wheel(wheel)
    return wheel


def _pip_download(target: Path, directory: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--retries=1"]
    command += ["--disable-pip-version-check", "--dest", str(target), "recbole==1.2.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (target / WHEEL).exists():
        said = (done.stderr or done.stdout).strip().splitlines()
        reason = said[-1] if said else f"exit code {done.returncode}"
        raise DataError(f"pip download recbole==1.2.1: {reason}; put {WHEEL} or ml-100k.zip into {directory} by hand")


def _check_wheel(wheel: Path) -> None:
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise DataError(f"{wheel}: SHA-256 differs from the published {WHEEL_SHA256}; remove the file and try again")


def _items_with_flags(movies: Found) -> pl.DataFrame:
    """u.item: id, title, release date, video date, address, and one flag a genre."""
    head = {"movie_id": INT, "title": TEXT, "released": TEXT, "video": TEXT, "url": TEXT}
    table = split_lines(movies, "|", {**head, **dict.fromkeys(GENRES, INT)}, encoding="latin-1")
    flags = [pl.when(pl.col(genre) == 1).then(pl.lit(genre)) for genre in GENRES]
    return table.select("movie_id", "title", genres=pl.concat_list(flags).list.drop_nulls())


def _items_with_classes(movies: Found) -> pl.DataFrame:
    """The atomic form: id, title, year and genres separated by spaces."""
    columns = {"movie_id": INT, "title": TEXT, "year": TEXT, "genres": TEXT}
    table = split_lines(movies, "\t", columns, ATOMIC_HEADERS["item"])
    # A film without a year has its title repeated in that column.
    with_year = pl.format("{} ({})", "title", "year")
    title = pl.when(pl.col("year") == pl.col("title")).then("title").otherwise(with_year)
    return table.select("movie_id", title, genres=pl.col("genres").str.split(" "))


def _ranked_ratings(path: Path) -> pl.DataFrame:
    wanted = ("user_id", "movie_id", "rating", "timestamp", "time_rank")
    try:
        table = pl.read_parquet(path, columns=list(wanted))
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: Parquet with the columns {', '.join(wanted)} is expected ({reason})") from None
    known, rank = pl.col("timestamp").cast(INT), pl.col("time_rank").cast(INT)
    ranked = pl.when(known.is_not_null()).then(rank)  # the ranks whose time is known
    before, after = known.forward_fill().over("user_id"), known.backward_fill().over("user_id")
    forward = before + (rank - ranked.forward_fill().over("user_id"))
    backward = after - (ranked.backward_fill().over("user_id") - rank)
    stand_in = pl.when(before.is_null()).then(backward).otherwise(pl.min_horizontal(forward, after))
    return table.sort("user_id", "time_rank").select(
        user=pl.col("user_id").cast(INT),
        item=pl.col("movie_id").cast(INT),
        rating=pl.col("rating").cast(REAL),
        time=pl.coalesce(known, stand_in),
    )


def _log(name: str, schema: Schema, users: pl.DataFrame, items: pl.DataFrame, events: pl.DataFrame) -> RawLog:
    title = pl.col("title").str.strip_chars()
    year = title.str.extract_all(r"\(\d{4}\)").list.last().str.strip_chars("()").cast(INT)
    return RawLog(
        name=name,
        schema=schema,
        users=users.select("user_id", "gender", "age", "occupation", zip3=pl.col("zip").str.head(3)),
        items=items.select("movie_id", title, "genres", year=year),
        events=events.select("user", "item", "time", "rating"),
    )
