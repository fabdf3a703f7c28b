"""prerank serve, before it serves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from prerank.cli import serve as module
from prerank.errors import ConfigError
from prerank.service.settings import ServiceConfig, read_token

Prerank = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--set", "queu=3"], "queu: unknown key; did you mean 'queue'?"),
        (["--set", "threads=0"], "threads"),
        (["--set", "limits.candidates=none"], "limits.candidates"),
        (["--set", "name=../x"], "name"),
        (["--port", "70000"], "port"),
        (["--host", "no.such.host.invalid", "--port", "0"], "host no.such.host.invalid"),
        (["--config", "missing.yaml"], "missing.yaml: no such file"),
        (["--set", "token_file=missing"], "token_file missing: cannot be read"),
    ],
)
def test_wrong_settings_are_one_line(prerank: Prerank, tmp_path: Path, options: list[str], expected: str) -> None:
    code, out, err = prerank("serve", tmp_path, *options)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1 and expected in err


def test_help_shows_an_example(prerank: Prerank) -> None:
    assert "Example: prerank serve published" in " ".join(prerank("serve", "--help")[1].split())


def test_packages_that_are_missing_are_named(prerank: Prerank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    code, _, err = prerank("serve", tmp_path)
    assert code == 2 and "pip install 'prerank[serve]'" in err


def test_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PRERANK_TOKEN", raising=False)
    assert read_token(ServiceConfig()) is None
    monkeypatch.setenv("PRERANK_TOKEN", "from-environment\n")
    assert read_token(ServiceConfig()) == b"from-environment"
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert read_token(ServiceConfig(token_file=file)) == b"from-file"
    for content in ("", " \n", "two words", "\x7f", "ü"):
        file.write_text(content)
        with pytest.raises(ConfigError) as refused:
            read_token(ServiceConfig(token_file=file))
        assert content.strip() == "" or content not in str(refused.value)
