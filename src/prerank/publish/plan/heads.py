"""Models whose ``score`` is their scorer: the folded user side, then one pass over the store's rows."""

from __future__ import annotations

import numpy as np
from torch import nn

from prerank.batch import Features
from prerank.layers.folding import folded
from prerank.models.base import PreRankingModel
from prerank.publish.item_ids import Ints
from prerank.publish.plan.base import Floats, Past, Plan, Score, one_history
from prerank.publish.plan.scoring import HeadScores
from prerank.publish.store import ItemStore


class HeadsPlan(Plan):
    """One representation of the user against those of the items."""

    def __init__(self, model: PreRankingModel, *scorers: nn.Module) -> None:
        """Fold a model in evaluation mode, on the CPU.

        Args:
            model: one whose ``score`` is nothing but the sum of its scorers.
            scorers: these.

        Raises:
            NoPlanError: a scorer has no pass of its own.
        """
        self.model = folded(model)
        self.scores = HeadScores(*scorers)

    def begin(
        self, features: Features, past: Past, store: ItemStore, positions: Ints, pairs: Features | None = None
    ) -> Score:
        """See ``Plan``."""
        assert pairs is None
        user = self.model.user(features, one_history(past.table)).contiguous().numpy()

        def score(places: slice) -> Floats:
            some = positions[places]
            return self.scores(user, np.zeros(len(some), dtype=np.int64), store, some)

        return score
