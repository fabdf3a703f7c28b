"""The candidates of each request in each epoch: stored ones, further or fresh negatives."""

from __future__ import annotations

import numpy as np

from prerank.data.build import sampler_for
from prerank.data.log import Dataset, Rowids


class Candidates:
    """What the requests of one part are shown, epoch by epoch.

    Attributes:
        count: C, of each request.
    """

    def __init__(
        self, dataset: Dataset, part: str, seed: int, fresh: bool = False, negatives: int | None = None
    ) -> None:
        """Prepare one part.

        Args:
            dataset: where negatives are drawn, its labels are sampled.
            part: ``train``, ``valid`` or ``test``.
            seed: of what is drawn.
            fresh: draw new negatives for every epoch.
            negatives: how many a positive has; None is as many as are stored. Further ones are drawn once for all
                epochs unless they are fresh.
        """
        self.rows = dataset.parts[part]
        stored: int = self.rows.items.shape[1]
        self.count = stored if negatives is None else 1 + negatives
        self.seed, self.fresh = seed, fresh
        self.sampler = sampler_for(dataset) if fresh or self.count > stored else None

    def of(self, epoch: int) -> Rowids:
        """(R, C) stored candidates as far as they go, unless all negatives are fresh, and then drawn ones."""
        stored = np.asarray(self.rows.items)
        kept = 1 if self.fresh else min(stored.shape[1], self.count)
        if self.sampler is None:
            return stored[:, :kept]
        rng = np.random.default_rng([self.seed, epoch if self.fresh else 0, 1])
        drawn = self.sampler.draw(np.asarray(self.rows.users), stored[:, 0], self.count - kept, rng)
        return np.concatenate([stored[:, :kept], drawn], axis=1)
