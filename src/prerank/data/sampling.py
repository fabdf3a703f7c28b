"""Negatives for implicit feedback: items that a user never touched, or items as frequent as in the log."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prerank.data.log import Ints, Rowids
from prerank.errors import DataError


class NegativeSampler:
    """Draws negatives for (user, positive) pairs.

    ``catalogue``: uniform over the catalogue without the user's whole interaction list, past and future (DIN's
    protocol). ``events``: uniform over events, so proportional to popularity, and only different from the
    positive (DIEN's protocol).
    """

    def __init__(self, users: Rowids, items: Rowids, catalogue: Rowids, source: str) -> None:
        """Index the interactions.

        Args:
            users, items: (E,) one entry per interaction.
            catalogue: (V,) the items that may be drawn.
            source: ``catalogue`` or ``events``.

        Raises:
            DataError: a user has touched the whole catalogue, so no negative exists.
        """
        self.uniform = source == "catalogue"
        self.pool = catalogue if self.uniform else items
        if len(catalogue) < 2:
            raise DataError(f"items: {len(catalogue)} with events; sampling negatives needs at least two")
        if self.uniform:
            self.stride = int(max(catalogue.max(), items.max(initial=0))) + 1
            keys = np.sort(self._keys(users, items))
            self.seen = keys[np.r_[True, keys[1:] != keys[:-1]]]
            touched = np.bincount(self.seen // self.stride)
            if touched.max(initial=0) >= len(catalogue):
                raise DataError(
                    f"user in row {touched.argmax() + 1} of the user table has events with all {len(catalogue)} items; "
                    "no negative is left: leave the user out, or use --set negatives_from=events"
                )

    def draw(self, users: Rowids, positives: Rowids, count: int, rng: np.random.Generator) -> Rowids:
        """(R, count) negatives for R positives; distinct from the positive, not necessarily from each other."""
        drawn = self.pool[rng.integers(len(self.pool), size=(len(users), count))]
        pending = np.nonzero(self._refused(users[:, None], positives[:, None], drawn))
        while len(pending[0]):
            again = self.pool[rng.integers(len(self.pool), size=len(pending[0]))]
            drawn[pending] = again
            refused = self._refused(users[pending[0]], positives[pending[0]], again)
            pending = (pending[0][refused], pending[1][refused])
        return drawn

    def _refused(self, users: Rowids, positives: Rowids, drawn: Rowids) -> NDArray[np.bool_]:
        if not self.uniform:
            return np.asarray(drawn == positives)
        keys = self._keys(users, drawn)
        places = np.searchsorted(self.seen, keys)
        places[places == len(self.seen)] = 0  # above the last one: anything that differs
        return np.asarray(self.seen[places] == keys)

    def _keys(self, users: Rowids, items: Rowids) -> Ints:
        """One number for each pair of user and item."""
        keys = users.astype(np.int64) * self.stride
        return keys + items
