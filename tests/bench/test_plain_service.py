"""The baseline of the load study gives the same scores: it is slower, not simpler."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from prerank.bench.load_payloads import random_asked
from prerank.bench.load_servers import random_model
from prerank.bench.plain_service import DIRECTORY, INLINE, Asked, application
from prerank.serving.preranker import PreRanker


@pytest.mark.parametrize("inline", [False, True])
def test_the_same_candidates_and_scores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inline: bool) -> None:
    published = random_model(tmp_path, "fit", 1000, 1)
    monkeypatch.setenv(DIRECTORY, str(published))
    if inline:
        monkeypatch.setenv(INLINE, "1")
    (route,) = [route for route in application().routes if isinstance(route, Route) and route.path == "/rank"]
    (asked,) = random_asked(1, 200, 20, 1000, 9, 2)
    answer: Any = route.endpoint(
        Asked(user=dict(asked.user), candidates=list(asked.candidates), history=list(asked.history), k=9)
    )
    answer = asyncio.run(answer) if inline else answer
    expected = PreRanker.load(published).answer(asked)
    assert answer.scores == pytest.approx(expected.scores, rel=1e-4, abs=1e-5)
    assert answer.ids == expected.ids
