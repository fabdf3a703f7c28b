"""The operator's API: only with its token, only what is listed, and the last switch holds."""

from __future__ import annotations

import http.client
import json
import random
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.service.conftest import JSON, Answer, Running, Serve, publish
from tests.service.test_workers import ONE, until

from prerank.data.log import Dataset
from prerank.errors import ConfigError
from prerank.publish.generation import locate
from prerank.service.settings import AdminConfig, ServiceConfig, read_admin_token

pytestmark = pytest.mark.xdist_group("service")

TOKEN, PUBLIC = "only-for-operators", "for-everyone"
HEADERS = {**JSON, "Authorization": f"Bearer {TOKEN}"}
THREADS, CALLS = 8, 25  # 200 calls each are made by prerank bench workers


class Operator:
    """Asks the API of a running service."""

    def __init__(self, server: Running, directory: Path, names: list[str]) -> None:
        self.server, self.directory, self.names = server, directory, names

    def ask(self, method: str, path: str, body: Any = None, headers: Any = HEADERS) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.admin_port, timeout=120)
        answer = self.server.call(method, path, body, headers, connection)
        connection.close()
        return answer

    def serving(self) -> set[str]:
        return {worker["generation"] for worker in self.ask("GET", "/v1/workers").json["workers"]}

    def serves(self, name: str) -> bool:
        return self.serving() == {name}


@pytest.fixture(scope="module")
def operator(serve: Serve, world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """Three generations, the newest first, and one worker; several are asked through the same words."""
    to = tmp_path_factory.mktemp("administered") / "published"
    names = [publish(world, to, seed).name for seed in (1, 2, 3)][::-1]
    settings = ("admin.port=0", "watch_seconds=60")  # what changes, changes by the API
    options = [part for setting in settings for part in ("--set", setting)]
    return Operator(serve(to, *options, token=PUBLIC, admin_token=TOKEN), to, names)


def test_what_is_told(operator: Operator) -> None:
    told = operator.ask("GET", "/v1/generations").json
    assert [one["name"] for one in told["generations"]] == operator.names
    assert [one["state"] for one in told["generations"]] == ["current", "previous", "other"]
    assert [one["serving"] for one in told["generations"]] == [[0], [], []]
    assert (told["current"], told["previous"]) == tuple(operator.names[:2])
    workers = operator.ask("GET", "/v1/workers").json
    assert workers["ready"] is True
    (worker,) = workers["workers"]
    assert worker["state"] == "ready" and worker["model"] == "fit" and worker["items"] == 80
    assert operator.ask("GET", "/healthz/live", headers={}).json == {"status": "live"}


def test_back_and_to_a_name(operator: Operator) -> None:
    authorized = {**JSON, "Authorization": f"Bearer {PUBLIC}"}
    for path, body, expected in (
        ("/v1/rollback", None, 1),
        ("/v1/rollback", {}, 2),
        ("/v1/switch", {"generation": operator.names[0]}, 0),
    ):
        answer = operator.ask("POST", path, body)
        name = operator.names[expected]
        assert answer.status == 200 and answer.json["generation"] == name == locate(operator.directory).name
        until(partial(operator.serves, name))
        assert operator.server.rank(ONE, headers=authorized).json["generation"] == name


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/v1/switch", {"generation": "20200101T000000-00000000"}, 404, "generation: there is none"),
        ("POST", "/v1/switch", {"generation": "../../../etc/passwd"}, 404, "generation: there is none"),
        ("POST", "/v1/switch", {"generation": ""}, 404, "generation: there is none"),
        ("POST", "/v1/switch", {"generation": "\0"}, 404, "generation: there is none"),
        ("POST", "/v1/switch", {"generation": 3}, 400, "generation: expected str"),
        ("POST", "/v1/switch", {}, 400, "generation"),
        ("POST", "/v1/switch", {"name": "x"}, 400, "name"),
        ("POST", "/v1/switch", b"{", 400, "body"),
        ("GET", "/v1/switch", None, 405, "use POST"),
        ("POST", "/v1/generations", None, 405, "use GET"),
        ("GET", "/v1/rank", None, 404, "path: nothing is here"),
        ("GET", "/", None, 404, "path: nothing is here"),
        ("GET", "/%2e%2e/etc/passwd", None, 404, "path: nothing is here"),
    ],
)
def test_what_is_refused(operator: Operator, method: str, path: str, body: Any, status: int, message: str) -> None:
    answer = operator.ask(method, path, body)
    assert answer.status == status and message in answer.error
    assert locate(operator.directory).name == operator.names[0]


@pytest.mark.parametrize("value", [None, "", f"Bearer {PUBLIC}", f"Bearer {TOKEN}x", TOKEN, f"Basic {TOKEN}"])
def test_only_with_its_own_token(operator: Operator, value: str | None) -> None:
    headers = {**JSON, **({} if value is None else {"Authorization": value})}
    for method in ("GET", "POST", "DELETE"):
        for path in ("/v1/generations", "/v1/workers", "/v1/rollback", "/v1/switch", "/v1/reload", "/", "/metrics"):
            assert operator.ask(method, path, {}, headers).status == 401
    assert operator.server.call("POST", "/v1/rollback", {}, HEADERS).status == 401  # the service knows it not


def test_a_damaged_one_is_refused_and_told(operator: Operator) -> None:
    good = operator.names[0]
    path = operator.directory / "generations" / operator.names[1] / "store" / "ids.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\xff")
    answer = operator.ask("POST", "/v1/switch", {"generation": operator.names[1]})
    assert answer.status == 409 and "ids.npy: is damaged" in answer.error
    assert operator.ask("POST", "/v1/rollback").status == 409  # the same, so far nobody knows it as refused
    assert locate(operator.directory).name == good and operator.serving() == {good}
    # Written by hand, it is refused by the worker.
    (operator.directory / "CURRENT").write_text(f"{operator.names[1]}\n")
    assert operator.ask("POST", "/v1/reload").status == 200
    told = until(
        lambda: (
            found
            if (found := operator.ask("GET", "/v1/generations").json["generations"][1])["refused"] is not None
            else None
        )
    )
    assert "ids.npy: is damaged" in told["refused"] and told["state"] == "current" and told["serving"] == []
    assert operator.serving() == {good}
    assert operator.ask("POST", "/v1/switch", {"generation": good}).json["generation"] == good
    assert operator.ask("POST", "/v1/rollback").json["generation"] == operator.names[2]  # leaves the refused one out
    path.write_bytes(content)
    operator.ask("POST", "/v1/switch", {"generation": operator.names[1]})
    until(lambda: operator.serving() == {operator.names[1]})
    assert operator.ask("GET", "/v1/generations").json["generations"][1]["refused"] is None
    operator.ask("POST", "/v1/switch", {"generation": good})


def test_many_at_once(operator: Operator) -> None:
    answers: list[Any] = []

    def switch(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(CALLS):
            if rng.random() < 0.5:
                answer = operator.ask("POST", "/v1/rollback")
            else:
                answer = operator.ask("POST", "/v1/switch", {"generation": rng.choice(operator.names)})
            assert answer.status == 200 or (answer.status == 409 and "before the current one" in answer.error)
            answers.extend([answer.json] if answer.status == 200 else [])

    threads = [threading.Thread(target=switch, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = max(answers, key=lambda answer: answer["number"])
    assert len(answers) > THREADS * CALLS / 4
    assert locate(operator.directory).name == last["generation"]
    until(lambda: operator.serving() == {last["generation"]})


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRERANK_ADMIN_TOKEN", raising=False)
    config = ServiceConfig(admin=AdminConfig(port=0))
    assert read_admin_token(ServiceConfig(), None) is None
    with pytest.raises(ConfigError, match=r"^admin\.port: needs a token, from admin\.token_file or"):
        read_admin_token(config, None)
    file = tmp_path / "token"
    file.write_text("secret\n")
    told = ServiceConfig(admin=AdminConfig(port=0, token_file=file))
    assert read_admin_token(told, None) == b"secret"
    with pytest.raises(ConfigError, match="another one than"):
        read_admin_token(told, b"secret")
    monkeypatch.setenv("PRERANK_ADMIN_TOKEN", "from the environment")
    with pytest.raises(ConfigError, match="PRERANK_ADMIN_TOKEN: a token is one word"):
        read_admin_token(config, None)


def test_logs_hold_no_secret(operator: Operator) -> None:
    """Of all the requests above; run last."""
    text = operator.server.log.read_text()
    assert TOKEN not in text and PUBLIC not in text and '"switched to generation' in text
    assert all(json.loads(line) for line in text.splitlines())
