"""The first requests of a generation, before any of a client's: what is compiled, mapped or allocated late is then."""

from __future__ import annotations

import numpy as np

from prerank.errors import ArtefactError
from prerank.publish.generation import Generation

SIZES = (1, 100, 2000)  # candidates
ROUNDS = 3


def warm_up(generation: Generation) -> None:
    """Score items from all over the store for an unknown user, with histories from none to the longest.

    Raises:
        ArtefactError: a logit is not finite: such a generation must not be served.
    """
    rng = np.random.default_rng(0)
    length = generation.bundle.encoder.history
    step = {} if generation.store.behaviours is None else "0"
    for _ in range(ROUNDS):
        for size in SIZES:
            positions = rng.integers(len(generation.store), size=size)
            for steps in {0, 1, length}:
                logits, _ = generation.logits({}, {}, [step] * steps, positions)
                if not np.isfinite(logits).all():
                    raise ArtefactError(f"generation {generation.name}: gives scores that are not finite")
