import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from prerank.data.sources.download import Download, fetch
from prerank.errors import DataError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@dataclass
class Site:
    """What the server does, and the Range header of every request that it got."""

    content: bytes = CONTENT
    stop_after: int | None = None
    has_ranges: bool = True
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    served = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            served.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and served.has_ranges else 0
            size = len(served.content)
            if self.path == "/missing":
                self.send_error(404, "Not Found")
                return
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(size - start))
            self.end_headers()
            self.wfile.write(served.content[start : served.stop_after])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing to the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_address[1]}/file.zip"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield served
        server.shutdown()
        thread.join()


def test_a_file_arrives_whole(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fetch(Download(site.url, "file.zip", len(CONTENT), MD5), tmp_path / "new")
    assert path == tmp_path / "new" / "file.zip"
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["file.zip"]
    assert capsys.readouterr().err == f"{site.url} (1.0 MB; {MD5})\n"


def test_a_file_that_is_there_is_only_verified(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.zip").write_bytes(CONTENT)
    download = Download(site.url, "file.zip", len(CONTENT), MD5)
    assert fetch(download, tmp_path).read_bytes() == CONTENT
    assert site.ranges == []
    (tmp_path / "file.zip").write_bytes(CONTENT[::-1])
    with pytest.raises(DataError, match=r"file\.zip: md5 .* is published; remove it and try again"):
        fetch(download, tmp_path)


def test_a_broken_transfer_goes_on_where_it_broke_off(site: Site, tmp_path: Path) -> None:
    download = Download(site.url, "file.zip", len(CONTENT), MD5)
    site.stop_after = 700_001
    with pytest.raises(DataError, match=r"broke off at 700,001 of 1,048,576 bytes; the same command goes on"):
        fetch(download, tmp_path)
    assert (tmp_path / "file.zip.part").stat().st_size == 700_001
    site.stop_after = None
    assert fetch(download, tmp_path).read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=700001-"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.zip"]


def test_a_server_without_ranges_sends_all_of_it_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.zip.part").write_bytes(b"rubbish from another time")
    site.has_ranges = False
    assert fetch(Download(site.url, "file.zip", checksum=MD5), tmp_path).read_bytes() == CONTENT
    assert site.ranges == ["bytes=25-"]


def test_a_transfer_that_had_arrived_is_finished(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.zip.part").write_bytes(CONTENT)
    assert fetch(Download(site.url, "file.zip"), tmp_path).read_bytes() == CONTENT


def test_more_than_there_is_was_another_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.zip.part").write_bytes(CONTENT + b"?")
    with pytest.raises(DataError, match=r"is shorter than .*\.part; that was removed"):
        fetch(Download(site.url, "file.zip"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "checksum", "message"),
    [
        (len(CONTENT), f"md5:{'0' * 32}", f"{MD5.replace(':', ' ')}, {'0' * 32} is published"),
        (len(CONTENT), f"sha256:{'0' * 64}", f"sha256 .*, {'0' * 64} is published"),
        (7, None, "1,048,576 bytes, 7 are published"),
    ],
)
def test_another_content_is_refused(size: int, checksum: str | None, message: str, site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        fetch(Download(site.url, "file.zip", size, checksum), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_published_checksum_the_found_one_is_kept(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(Download(site.url, "file.zip"), tmp_path)
    assert (tmp_path / "file.zip.sha256").read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  file.zip\n"
    assert "(size not published; no checksum published)" in capsys.readouterr().err


def test_a_server_error_is_told(site: Site, tmp_path: Path) -> None:
    address = site.url.replace("file.zip", "missing")
    with pytest.raises(DataError, match=r"answers 404 Not Found; put file\.zip into .* by hand"):
        fetch(Download(address, "file.zip"), tmp_path)


def test_offline_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/file.zip"
        with pytest.raises(DataError) as caught:
            fetch(Download(address, "file.zip", 5), tmp_path)
    assert f"cannot be reached ([Errno 111] Connection refused); put file.zip into {tmp_path} by hand" in str(
        caught.value
    )
