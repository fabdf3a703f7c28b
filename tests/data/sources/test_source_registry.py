from pathlib import Path

import pytest

from prerank.data.protocol import PRESETS
from prerank.data.sources import SOURCES, download_source, open_source
from prerank.errors import ConfigError, DataError


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data source 'ml1m': unknown; did you mean 'ml-1m'\?$"):
        open_source("ml1m", tmp_path)
    with pytest.raises(ConfigError, match=r"^data source 'xyz': unknown; known: ml-100k, ml-1m, "):
        download_source("xyz", tmp_path)


@pytest.mark.parametrize("name", SOURCES)
def test_missing_files_are_named_with_the_folder_and_the_way_to_them(name: str, tmp_path: Path) -> None:
    source = SOURCES[name]
    hint = "; --download fetches them" if source.downloads else ""
    with pytest.raises(DataError) as empty:
        open_source(name, tmp_path)
    assert str(empty.value).startswith(f"{tmp_path}: ")
    assert str(empty.value).endswith(f" not found; needed there: {source.files}{hint}")
    with pytest.raises(DataError) as absent:
        open_source(name, tmp_path / "absent")
    assert str(absent.value) == f"{tmp_path}/absent: no such folder; needed there: {source.files}{hint}"


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_has_a_protocol_and_names_its_downloads(name: str) -> None:
    source = SOURCES[name]
    assert source.name == name
    assert source.preset in PRESETS
    for download in source.downloads:
        assert download.url.startswith("https://")
        assert download.url.endswith(f"/{download.file}")
        assert download.file in source.files


def test_what_needs_a_login_is_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^taobao: has no free download; .*: needed there: raw_sample\.csv, .* login"):
        download_source("taobao", tmp_path)
