"""The load generator: what is due is sent and counted, whatever the service does in the meantime."""

from __future__ import annotations

import json
import shutil
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from prerank.bench import wrk as wrk_module
from prerank.bench.load import LOST, Outcome, closed_loop, constant, open_loop, poisson, summary
from prerank.bench.load_payloads import PAYLOADS, read_requests
from prerank.bench.serving_report import markdown
from prerank.bench.serving_study import WINDOW, ratio, recovery
from prerank.bench.wrk import wrk
from prerank.errors import ConfigError, RequestError
from prerank.serving.request import Request

Prerank = Callable[..., tuple[int, str, str]]
STALL = 1.5
REQUEST = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok"


class Fake(socketserver.ThreadingTCPServer):
    """Answers request number n on a connection as it is told to."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, answer: Callable[[int], bytes | None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.count = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server = cast(Fake, self.server)
        while self.rfile.readline():
            while self.rfile.readline().strip():
                pass
            assert self.rfile.read(2) == b"ok"
            with server.lock:  # one at a time
                number, server.count = server.count, server.count + 1
                answer = server.answer(number)
            if answer is None:
                return
            self.wfile.write(answer)


def http(status: int, more: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: 3\r\n{more}\r\nabc".encode()


@contextmanager
def fake(answer: Callable[[int], bytes | None]) -> Iterator[Fake]:
    with Fake(answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_due_times() -> None:
    np.testing.assert_allclose(constant(4, 1), [0, 0.25, 0.5, 0.75])
    due = poisson(1000, 10, seed=1)
    assert 9500 < len(due) < 10500 and (np.diff(due) >= 0).all() and due[0] >= 0 and due[-1] < 10
    assert np.diff(due).std() == pytest.approx(0.001, rel=0.1)  # of exponential gaps, as large as their mean


@pytest.mark.parametrize("connections", [1, 8])
def test_a_stall_is_seen_by_all_that_were_due_meanwhile(connections: int) -> None:
    """A generator that waited for the answer would see it once."""

    def answer(number: int) -> bytes:
        time.sleep(STALL if number == 10 else 0)
        return http(200)

    with fake(answer) as server:
        outcome = open_loop(server.url, [REQUEST], constant(100, 3), connections)
    found = summary(outcome)
    assert found["requests"] == 300 and found["statuses"] == {"200": 300}
    taken = outcome.ended - outcome.due
    waited = taken[10 : 10 + int(100 * STALL)]  # each of these has to wait for what was left of it
    left = STALL - np.arange(len(waited)) / 100
    assert (waited >= left - 0.05).all()
    assert found["latency_ms"]["p50"] <= found["latency_ms"]["p99"] <= found["latency_ms"]["max"]
    assert found["latency_ms"]["max"] >= 1000 * (STALL - 0.05)


def test_refusals_and_lost_connections_are_counted() -> None:
    def answer(number: int) -> bytes | None:
        kinds = {3: http(429), 5: None, 7: http(503, "connection: close\r\n")}
        return kinds.get(number, http(200))

    with fake(answer) as server:
        outcome = open_loop(server.url, [REQUEST], constant(50, 0.4), 2)
    found = summary(outcome)
    assert found["statuses"] == {"200": 17, "429": 1, "503": 1} and found["lost"] == 1 and found["unanswered"] == 0
    assert (outcome.status == LOST).sum() == 1 and "refusal_ms" in found


def test_a_closed_loop_waits_for_answers() -> None:
    def answer(_: int) -> bytes:
        time.sleep(0.01)
        return http(200)

    with fake(answer) as server:
        found = summary(closed_loop(server.url, [REQUEST], 0.5, 4))
        assert found["requests"] == server.count == found["statuses"]["200"]
    assert found["answers_per_second"] <= 101


def test_what_cannot_be_reached() -> None:
    for url, message in (("http://127.0.0.1:9", "failed"), ("ftp://x", "expected http"), ("x:1", "expected http")):
        with pytest.raises(ConfigError, match=message):
            open_loop(url, [REQUEST], constant(1, 1), 1)
    with pytest.raises(ConfigError, match="901 is not between"):
        open_loop("http://127.0.0.1:9", [REQUEST], constant(1, 1), 901)


def test_every_kind_of_value_has_a_tensor_or_a_message() -> None:
    request = Request(
        user={"a": "x", "b": True, "c": 1.5, "d": None, "e": [1, 2]},
        candidates=["p", "q"],
        history=[{"item_id": 1}, {"item_id": 2}],
        columns={"bid": [1, 2]},
    )
    lines, _, body = PAYLOADS["binary"](request).partition(b"\r\n\r\n")
    size = int(lines.decode().rpartition("inference-header-content-length: ")[2].split("\r\n")[0])
    inputs = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in json.loads(body[:size])["inputs"]}
    assert inputs == {
        "candidates": ("BYTES", [2]),
        "history.item_id": ("INT64", [2]),
        "user.a": ("BYTES", [1]),
        "user.b": ("BOOL", [1]),
        "user.c": ("FP64", [1]),
        "user.e": ("INT64", [2]),
        "columns.bid": ("INT64", [2]),
    }
    with pytest.raises(RequestError, match=r"user\.a: .* no binary form"):
        PAYLOADS["binary"](Request(user={"a": {"x": 1}}, candidates=[]))


def test_requests_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    line = {"user": {}, "candidates": [1]}
    record = {"time": "", "generation": "g", "request": line, "answer": {}}
    file.write_text(f"{json.dumps(line)}\n{json.dumps(record)}\n{json.dumps(line)}\n")
    assert len(read_requests(file, 2)) == 2 and read_requests(file, 9)[1] == Request(**line)  # type: ignore[arg-type]
    file.write_text("")
    with pytest.raises(RequestError, match="holds no request"):
        read_requests(file, 9)


def test_recovery_is_told_from_the_windows_after_the_end() -> None:
    due = constant(100, 4)

    def after(bad: Callable[[float], bool], slow: Callable[[float], bool] = lambda _: False) -> float | None:
        status = np.array([429 if bad(time) else 200 for time in due])
        taken = np.array([0.1 if slow(time) else 0.01 for time in due])
        return recovery(Outcome(due, due, due + taken, status, 4.0, 0.0), 1.0, usual=10.0)

    assert after(lambda time: time < 1) == WINDOW
    assert after(lambda time: time < 1.3) == 3 * WINDOW
    assert after(lambda time: time < 1, lambda time: time < 1.65) == 4 * WINDOW
    assert after(lambda time: time > 3.6) is None


def test_wrk_is_read_or_missed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = """Running 1s test @ http://127.0.0.1:1
  1 threads and 2 connections
  Latency Distribution
     50%  740.00us
     75%    1.02ms
     90%    1.51ms
     99%    2.00s 
  100 requests in 1.00s, 350.38KB read
  Non-2xx or 3xx responses: 7
Requests/sec:     68.42
Transfer/sec:    112.02KB
"""  # noqa: W291
    assert wrk_module.read(said) == {
        "answers_per_second": 68.4,
        "latency_ms": {"p50": 0.74, "p90": 1.51, "p99": 2000.0},
        "errors": 7,
    }
    with pytest.raises(ChildProcessError, match="unable to connect"):
        wrk_module.read("unable to connect")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert wrk("http://127.0.0.1:1", [REQUEST], 1, 1, tmp_path / "wrk") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--payload", "xml"], "--payload xml: unknown"),
        (["--url", "http://127.0.0.1:1"], "--requests: a file is needed"),
        (["--requests", "missing"], "--requests: only with --url"),
        (["--model", "none"], "--model none: unknown"),
        (["--candidates", "2000", "--items", "1000"], "--candidates 2000: the catalogue has 1000"),
        (["--url", "http://127.0.0.1:1", "--requests", "missing"], "missing: cannot be read"),
    ],
)
def test_wrong_options_are_one_line(prerank: Prerank, options: list[str], message: str) -> None:
    code, out, err = prerank("bench", "load", *options)
    assert (code, out) == (2, "") and err.count("\n") == 1 and message in err


def test_the_study_has_three_parts(prerank: Prerank) -> None:
    code, _, err = prerank("bench", "serving", "all")
    assert code == 2 and "parts: overhead, saturation, overload" in err


def test_the_tables_of_the_study() -> None:
    times = {"p50": 1.234, "p90": 2.0, "p99": 3.0, "p99.9": 4.0, "max": 5.0}
    ways = dict.fromkeys(("in_process", "http_binary", "http_json"), times)
    overhead = markdown({"milliseconds": ways, "added_p50_ms": {"http_binary": 0.5, "http_json": 0.75}})
    assert overhead.splitlines()[2:] == [
        "| in process | 1.23 | 2.00 | 3.00 |  |",
        "| open protocol, binary | 1.23 | 2.00 | 3.00 | 0.50 |",
        "| JSON | 1.23 | 2.00 | 3.00 | 0.75 |",
    ]
    row = {"saturation": {"answers_per_second": 400.4}, "at_share": {"latency_ms": times}}
    rows = [{"service": "prerank", "workers": 2, "payload": "json", **row}]
    assert markdown({"rows": rows, "share": 0.7}).splitlines()[2] == "| prerank | 2 | json | 400 | 1.2 | 3.0 |"
    over = markdown(
        {
            "overload_seconds": 60.0,
            "saturation_per_second": 400.0,
            "asked_per_second": 1200.0,
            "overload": {"refusal_ms": times, "latency_ms": times},
            "goodput_per_second": 350.0,
            "goodput_share": 0.875,
            "recovery_seconds": None,
            "memory_growth_mib": 20.4,
        }
    )
    assert "| goodput / saturation | 0.88 |" in over and "| recovered after, s | not within 10 |" in over


def test_the_ratio_is_that_of_the_best_of_each() -> None:
    def row(service: str, payload: str, rate: float) -> dict[str, Any]:
        return {"service": service, "payload": payload, "saturation": {"answers_per_second": rate}}

    rows = [row("prerank", "json", 300), row("prerank", "binary", 900), row("prerank", "json", 450)]
    assert ratio([*rows, row("plain", "json", 100), row("plain, async", "json", 150)]) == 3.0
