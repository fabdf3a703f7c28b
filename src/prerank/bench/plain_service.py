"""What one would write in an afternoon: a FastAPI service that scores with eager PyTorch. The load study's baseline.

It serves the same weights by the model's own functions, keeps all items in memory, takes JSON and gives the best k. It
has no queue, no deadline, no generations and no checks but pydantic's.

Example: python -m prerank.bench.plain_service published 8001 2
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from prerank.publish.generation import STORE, locate, open_generation
from prerank.publish.plan.base import one_history

DIRECTORY = "PRERANK_PLAIN_SERVICE"
INLINE = "PRERANK_PLAIN_SERVICE_INLINE"
"""Where this is set, a request is scored in the event loop; otherwise in one of FastAPI's threads."""


class Asked(BaseModel):
    """A request, of integer ids."""

    user: dict[str, int]
    candidates: list[int]
    history: list[int] = []
    k: int = 100


class Answer(BaseModel):
    """The best candidates."""

    ids: list[int]
    scores: list[float]


def application() -> FastAPI:
    """Serve what is published in the directory that the environment names."""
    torch.set_num_threads(1)
    place = locate(Path(os.environ[DIRECTORY]))
    generation = open_generation(place, planned=False)
    model, encoder, store = generation.bundle.model, generation.bundle.encoder, generation.store
    ids = np.load(place / STORE / "ids.npy").tolist()
    places = {item: position for position, item in enumerate(ids)}
    every = np.arange(len(ids))
    items = store.gather(every)
    behaviours = store.remember(every, np.ones(len(ids), dtype=np.bool_))
    app = FastAPI()

    @torch.inference_mode()
    def rank(asked: Asked) -> Answer:
        features: Any = encoder.encode_values("user", [asked.user])
        past = behaviours[torch.tensor([places[item] for item in asked.history], dtype=torch.int64)]
        user = model.user(features, one_history(past))
        logits = model.score(user, items[torch.tensor([places[item] for item in asked.candidates])])
        best = logits.topk(min(asked.k, len(asked.candidates)))
        return Answer(ids=[asked.candidates[place] for place in best.indices.tolist()], scores=best.values.tolist())

    async def rank_at_once(asked: Asked) -> Answer:
        return rank(asked)

    app.add_api_route("/rank", rank_at_once if INLINE in os.environ else rank, methods=["POST"])
    return app


if __name__ == "__main__":
    os.environ[DIRECTORY] = sys.argv[1]
    uvicorn.run(
        "prerank.bench.plain_service:application",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[2]),
        workers=int(sys.argv[3]),
        http="httptools",
        loop="asyncio",
        log_level="warning",
        access_log=False,
    )
