"""The known data sets: which files each wants, where they are published, and how they are read."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prerank.data.log import RawLog
from prerank.data.sources.amazon import read_amazon
from prerank.data.sources.download import Download, fetch
from prerank.data.sources.files import FilesMissingError
from prerank.data.sources.movielens import read_ml1m, read_ml100k
from prerank.data.sources.taobao import read_taobao, read_taobao_ad_clicks
from prerank.errors import ConfigError, DataError

MOVIELENS = "https://files.grouplens.org/datasets/movielens"
AMAZON = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        name: on the command line.
        read: from the folder with its files to the log.
        preset: the name of the protocol that is used unless another one is asked for.
        downloads: the official files; none where they need a login.
        files: which files to put into the folder, for messages.
    """

    name: str
    read: Callable[[Path], RawLog]
    preset: str
    downloads: tuple[Download, ...]
    files: str


def _amazon(name: str, category: str, review_bytes: int | None = None) -> Source:
    reviews, meta = f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz"
    downloads = (Download(f"{AMAZON}/{reviews}", reviews, review_bytes), Download(f"{AMAZON}/{meta}", meta))
    files = f"{reviews} and {meta} (2014)"
    return Source(name, partial(read_amazon, name, category), "din", downloads, files)


LOGIN = "of 'Ad Display/Click Data on Taobao.com' (its page on Tianchi needs a login)"

_ALL = (
    Source(
        "ml-100k",
        read_ml100k,
        "din",
        (Download(f"{MOVIELENS}/ml-100k.zip", "ml-100k.zip", 4_924_029, "md5:0e33842e24a9c977be4e0107933c0723"),),
        "ml-100k.zip, or u.data, u.item and u.user",
    ),
    Source(
        "ml-1m",
        read_ml1m,
        "din",
        (Download(f"{MOVIELENS}/ml-1m.zip", "ml-1m.zip", 5_917_549, "md5:c4d9eecfca2ab87c1945afe126590906"),),
        "ml-1m.zip, or ratings.dat, users.dat and movies.dat",
    ),
    _amazon("amazon-electronics", "Electronics", 495_854_086),
    _amazon("amazon-books", "Books"),
    _amazon("amazon-sports", "Sports_and_Outdoors"),
    _amazon("amazon-grocery", "Grocery_and_Gourmet_Food"),
    Source(
        "taobao",
        read_taobao,
        "taobao",
        (),
        f"raw_sample.csv, ad_feature.csv, user_profile.csv and behavior_log.csv {LOGIN}",
    ),
    Source(
        "taobao-ad-clicks",
        read_taobao_ad_clicks,
        "taobao",
        (),
        f"raw_sample.csv, ad_feature.csv and user_profile.csv {LOGIN}",
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _ALL}


def find_source(name: str) -> Source:
    """The data set of that name.

    Raises:
        ConfigError: there is none; the message names the nearest one.
    """
    if name in SOURCES:
        return SOURCES[name]
    near = difflib.get_close_matches(name, SOURCES, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(SOURCES)}"
    raise ConfigError(f"data source {name!r}: unknown; {hint}")


def open_source(name: str, directory: Path) -> RawLog:
    """Read a data set from the folder that holds its files.

    Raises:
        ConfigError: no such data set.
        DataError: the folder or its files are missing, and which to put where; or a file is wrong.
    """
    source = find_source(name)
    if not directory.is_dir():
        raise DataError(f"{directory}: no such folder; {_advice(source)}")
    try:
        return source.read(directory)
    except FilesMissingError as error:
        raise DataError(f"{error}; {_advice(source)}") from None


def download_source(name: str, directory: Path) -> list[Path]:
    """Fetch the official files of a data set into the folder; what is there already is only verified.

    Raises:
        ConfigError: no such data set.
        DataError: it has no free download, or a download fails.
    """
    source = find_source(name)
    if not source.downloads:
        raise DataError(f"{name}: has no free download; {directory}: {_advice(source)}")
    return [fetch(download, directory) for download in source.downloads]


def _advice(source: Source) -> str:
    return f"needed there: {source.files}" + ("; --download fetches them" if source.downloads else "")
