"""Sampled requests: whole lines, bounded files, nothing that waits; and their replay."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.service.conftest import Serve
from tests.service.tensors import as_bytes, as_tensors, send_bytes

from prerank.errors import ConfigError
from prerank.publish.generation import CURRENT, GENERATIONS
from prerank.service.metrics import Metrics
from prerank.service.sampling import BUFFER, Sampler, check_place, record
from prerank.service.settings import ServiceConfig
from prerank.serving.preranker import PreRanker
from prerank.serving.request import Request

pytestmark = pytest.mark.xdist_group("service")

ASKED = Request(user={"user_id": 3}, candidates=["item-0001", "item-0002", "withdrawn"], history=["item-0003"])
Prerank = Callable[..., tuple[int, str, str]]


def sampler(directory: Path, **settings: Any) -> Sampler:
    config = ServiceConfig(sample_dir=directory, **{"sample": 1, **settings})
    check_place(config)
    return Sampler(config, Metrics())


def counted(sampler: Sampler, result: str) -> float | None:
    return sampler.metrics.registry.get_sample_value("prerank_sampled_requests_total", {"result": result})


def lines(directory: Path) -> list[Any]:
    files = sorted(directory.glob("requests-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_line_is_a_request_and_its_answer(ranker: PreRanker, tmp_path: Path) -> None:
    taken = sampler(tmp_path / "sample")
    asked = Request(
        user={"user_id": 3},
        candidates=np.array([1, 2**63 - 1]),
        columns={"bid": np.array([0.5, 2.0])},
        k=1,
        ranking="ecpm",
    )
    for request in (ASKED, asked, Request(user={}, candidates=[2**70])):
        taken.offer(request, ranker.answer(request))
    taken.close()
    first, second, third = lines(tmp_path / "sample")
    answer = ranker.answer(ASKED)
    assert first["generation"] == ranker.generation.name and first["time"].endswith("+00:00")
    assert first["request"] == {
        "user": {"user_id": 3},
        "candidates": ASKED.candidates,
        "history": ["item-0003"],
        "ranking": "score",
        "unknown": "drop",
    }
    assert first["answer"] == answer.content()
    assert second["request"]["candidates"] == [1, 2**63 - 1] and second["request"]["columns"] == {"bid": [0.5, 2.0]}
    assert third["answer"]["unknown"] == [2**70]
    assert counted(taken, "written") == 3 and counted(taken, "dropped") == 0
    (file,) = (tmp_path / "sample").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_share(ranker: PreRanker, tmp_path: Path) -> None:
    answer = ranker.answer(ASKED)
    none, some = sampler(tmp_path, sample=0), sampler(tmp_path, sample=0.25)
    for _ in range(20):
        none.offer(ASKED, answer)
    for _ in range(400):
        some.offer(ASKED, answer)
        while some._buffer.qsize() > BUFFER // 2:
            threading.Event().wait(0.001)
    some.close()
    none.close()
    assert 40 <= len(lines(tmp_path)) <= 170  # 100 are expected; this far off once in ten billion


def test_files_are_bounded_and_the_oldest_go(ranker: PreRanker, tmp_path: Path) -> None:
    answer = ranker.answer(ASKED)
    size = len(record(datetime.now(UTC), ASKED, answer))
    taken = sampler(tmp_path, sample_file_bytes=3 * size, sample_files=2)
    for number in range(11):
        request = Request(user={"user_id": number}, candidates=ASKED.candidates, history=ASKED.history)
        taken.offer(request, answer)
    taken.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2 and all(file.stat().st_size <= 3 * size + 3 for file in files)
    assert [line["request"]["user"]["user_id"] for line in lines(tmp_path)][-1] == 10
    assert counted(taken, "written") == 11


def test_nothing_waits_for_the_disk(ranker: PreRanker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, answer = threading.Event(), ranker.answer(ASKED)
    taken = sampler(tmp_path)
    append = taken._files.append
    monkeypatch.setattr(taken._files, "append", lambda line: (go.wait(60), append(line)))
    for _ in range(BUFFER + 50):
        taken.offer(ASKED, answer)
    assert counted(taken, "dropped") in (49, 50)  # one may be with the thread
    go.set()
    taken.close(60)
    assert len(lines(tmp_path)) == BUFFER + 50 - int(counted(taken, "dropped") or 0)


def test_a_full_disk_leaves_no_half_line(
    ranker: PreRanker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, times = os.write, iter(["whole", "half", "error", "whole"])

    def failing(file: int, line: bytes) -> int:
        match next(times):
            case "half":
                return write(file, line[: len(line) // 2])
            case "error":
                raise OSError(28, "No space left on device")
        return write(file, line)

    taken, answer = sampler(tmp_path), ranker.answer(ASKED)
    monkeypatch.setattr(os, "write", failing)
    for _ in range(4):
        taken.offer(ASKED, answer)
    taken.close()
    assert len(lines(tmp_path)) == 2
    assert (counted(taken, "written"), counted(taken, "dropped")) == (2, 2)
    assert [entry.message.partition(":")[0] for entry in caplog.records] == ["sampled requests are dropped"]


def test_a_file_that_was_taken_away_is_followed_by_another(ranker: PreRanker, tmp_path: Path) -> None:
    taken, answer = sampler(tmp_path), ranker.answer(ASKED)
    taken.offer(ASKED, answer)
    for _ in range(600):
        if counted(taken, "written"):
            break
        threading.Event().wait(0.05)
    for file in tmp_path.iterdir():
        file.rename(tmp_path / "collected")
    taken.offer(ASKED, answer)
    taken.close()
    assert len(lines(tmp_path)) == 1


def test_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sample_dir: is needed with sample"):
        ServiceConfig(sample=0.5)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"sample_dir .*file: cannot be written to"):
        sampler(tmp_path / "file")


def test_what_a_service_sampled_is_answered_again(
    serve: Serve, published: Path, tmp_path: Path, prerank: Prerank
) -> None:
    sample = tmp_path / "sample"
    server = serve(published, "--set", "sample=1", "--set", f"sample_dir={sample}")
    ids = [f"item-{number:04}" for number in range(60)]
    one = {"candidates": [*ids, "withdrawn", ids[0]], "user": {"user_id": 2}, "history": ids[:4], "k": 7}
    assert server.rank({**one, "columns": {"bid": list(range(62))}, "ranking": "ecpm"}).status == 200
    assert server.rank({"candidates": ids, "soft_deadline_ms": 1e-6}).status == 200
    assert server.call("POST", "/v1/rank:batch", {"requests": [one, {"candidates": []}]}).status == 200
    assert send_bytes(server, *as_bytes(as_tensors({**one, "columns": {"bid": [0.5] * 62}}))).status == 200
    assert server.rank({"candidates": ids, "k": 0}).status == 400  # what is not answered is not sampled
    assert server.numbers()['prerank_sampled_requests_total{result="dropped"}'] == 0
    assert server.end() == 0
    (file,) = sample.iterdir()
    assert len(lines(sample)) == 5
    code, out, _ = prerank("verify", published, "--requests", file)
    assert code == 0 and "5 answers are as they were" in out
    assert prerank("rank", published, "--requests", file)[1].count("\n") == 5

    changed = lines(sample)
    changed[2]["answer"]["scores"][1] += 3e-5
    check(prerank, published, tmp_path, changed, 1, "1 of 5 answers differ; the first:", "line 3: candidate ")
    changed = lines(sample)
    changed[0]["answer"]["ids"][:2] = reversed(changed[0]["answer"]["ids"][:2])
    changed[0]["answer"]["scores"][:2] = reversed(changed[0]["answer"]["scores"][:2])
    check(prerank, published, tmp_path, changed, 1, "line 1: candidate ", "belongs before")
    changed = lines(sample)
    for name in ("ids", "scores", "values"):
        del changed[2]["answer"][name][0]
    check(prerank, published, tmp_path, changed, 1, "line 3: 6 candidates were returned, 7 are now")
    changed = lines(sample)
    changed[2]["answer"]["unknown"] = []
    check(prerank, published, tmp_path, changed, 1, "line 3: candidate 'withdrawn' is unknown and was not")

    names = sorted(path.name for path in (published / GENERATIONS).iterdir())
    current = (published / CURRENT).read_text().strip()
    (published / CURRENT).write_text(f"{next(name for name in names if name != current)}\n")
    code, _, err = prerank("verify", published, "--requests", file)
    assert code == 2 and "holds no answer of generation" in err and "5 of other generations were skipped" in err


def check(prerank: Prerank, published: Path, place: Path, content: list[Any], code: int, *words: str) -> None:
    """Exit code and one line that has these words."""
    file = place / "changed.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in content))
    got, _, err = prerank("verify", published, "--requests", file)
    assert got == code and err.count("\n") == 1 and all(word in err for word in words), err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not valid JSON"),
        ('{"candidates": [], "user": {}}', "line 1: a request without its answer"),
        ('{"request": {}, "time": "", "generation": "g"}', "line 1: answer: is missing"),
        ('{"request": {}, "time": "", "generation": "g", "answer": 3}', "line 1: answer: expected an object"),
        ('{"request": {}, "time": "", "generation": "g", "answer": {}}', "line 1: user: is missing"),
        ("", "line 1: not valid JSON"),
    ],
)
def test_files_of_the_wrong_form(master: Path, tmp_path: Path, prerank: Prerank, line: str, message: str) -> None:
    file = tmp_path / "wrong.jsonl"
    file.write_text(f"{line}\n")
    code, _, err = prerank("verify", master, "--requests", file)
    assert code == 2 and err.count("\n") == 1 and message in err
