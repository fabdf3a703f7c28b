"""The first stage of a simulated cascade: users at their held-out next event, and the candidates that are found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from prerank.data.log import Dataset, Rows
from prerank.errors import ConfigError, DataError
from prerank.evaluation.metrics import Floats, Ids
from prerank.publish.raw_requests import RawRequest, raw_requests


@dataclass(frozen=True)
class Asked:
    """Users who ask for a list just before their next event.

    Attributes:
        requests: U raw requests.
        targets: (U,) row of the item table of each next event.
        seen: of each user the items before it, which are not recommended again; none where histories are records.
    """

    requests: list[RawRequest]
    targets: Ids
    seen: list[Ids]

    def places(self, found: Ids) -> Ids:
        """(U,) where among its user's (U, K) candidates each target stands; -1 where it was not found."""
        hits = found == self.targets[:, None]
        return np.where(hits.any(axis=1), hits.argmax(axis=1), -1)


def ask(dataset: Dataset, users: int, seed: int) -> Asked:
    """Draw users of the test part, each at the earliest of its positive test events.

    Raises:
        ConfigError: there are not that many.
        DataError: the model would need pair values, which only logged candidates have.
    """
    if dataset.schema.given_pairs:
        names = ", ".join(field.name for field in dataset.schema.given_pairs)
        raise DataError(
            f"{dataset.name}: pair fields {names} are known for logged candidates only, not for recalled ones"
        )
    test = dataset.parts["test"]
    positive = np.flatnonzero(np.asarray(test.labels).any(axis=1))
    order = positive[np.lexsort((test.ends[positive], test.users[positive]))]
    first = order[np.r_[True, np.diff(test.users[order]) > 0]] if len(order) else order
    if len(first) < users:
        raise ConfigError(f"--users {users}: the test part has {len(first)} users with a positive event")
    chosen = np.sort(np.random.default_rng(seed).choice(first, users, replace=False))
    rows: Rows = test.take(chosen)
    target = np.take_along_axis(rows.items, np.asarray(rows.labels).argmax(axis=1)[:, None], axis=1)[:, 0]
    return Asked(
        raw_requests(dataset, rows, dataset.protocol.history), target.astype(np.int64), list(_seen(dataset, rows))
    )


def popular(dataset: Dataset) -> Iterator[Floats]:
    """For any number of users how often each item is positive in the training part."""
    train = dataset.parts["train"]
    counts = np.bincount(train.items[train.labels == 1], minlength=dataset.items.height)
    return repeat(counts.astype(np.float64))


def at_random(dataset: Dataset, seed: int) -> Iterator[Floats]:
    """For any number of users a random number for each item."""
    rng = np.random.default_rng([seed, 1])
    while True:
        yield rng.random(dataset.items.height)


def recalled(scores: Iterable[Floats], asked: Asked, count: int) -> Ids:
    """(U, K) the items with the highest scores that each user has not seen, best first; ties in catalogue order.

    Raises:
        ConfigError: a user has not so many unseen items.
    """
    found = np.empty((len(asked.requests), count), dtype=np.int64)
    for number, (seen, score) in enumerate(zip(asked.seen, scores, strict=False)):
        unseen = np.setdiff1d(np.arange(len(score)), seen)
        if len(unseen) < count:
            raise ConfigError(f"--candidates {count}: a user has only {len(unseen)} unseen items; ask for fewer")
        found[number] = unseen[np.argsort(-score[unseen], kind="stable")[:count]]
    return found


def _seen(dataset: Dataset, rows: Rows) -> Iterator[Ids]:
    timelines, known = dataset.timelines, dataset.schema.history_of == "items"
    for user, end in zip(rows.users, rows.ends, strict=True):
        start = timelines.offsets[user]
        yield timelines.entries[start : end if known else start].astype(np.int64)
