"""From a data set to batches: encoded tables held once, rows gathered, histories cut as windows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prerank.batch import Batch, Features, Ragged
from prerank.data.candidates import Candidates
from prerank.data.encoder import Encoder, unknown_share
from prerank.data.log import Dataset, Ints, Rowids, Rows


class EncodedDataset:
    """A data set and the encoded form of its tables."""

    def __init__(self, dataset: Dataset, encoder: Encoder) -> None:
        self.dataset = dataset
        self.encoder = encoder
        self.users = encoder.encode("user", dataset.users)
        self.items = encoder.encode("item", dataset.items)
        self.behaviours = encoder.encode("history", dataset.behaviours)

    def unknown(self) -> dict[str, Any]:
        """Of each part, side and field, the share of values that the training part did not have."""
        report: dict[str, Any] = {}
        for part, rows in self.dataset.parts.items():
            report[part] = {
                "user": unknown_share(self.users, np.bincount(rows.users, minlength=self.users.rows)),
                "item": unknown_share(self.items, np.bincount(rows.items.ravel(), minlength=self.items.rows)),
            }
            if rows.context is not None:
                context = self.encoder.encode("context", rows.context)
                report[part]["context"] = unknown_share(context, np.ones(len(rows), dtype=np.int64))
            if rows.pairs is not None:
                pairs = self.encoder.encode("pair", rows.pairs)
                report[part]["pair"] = unknown_share(pairs, np.ones(pairs.rows, dtype=np.int64))
        return report


class Loader:
    """Batches of one part.

    The order of an epoch depends on (seed, epoch) alone, so training can be resumed at any step.
    """

    def __init__(
        self,
        data: EncodedDataset,
        part: str,
        batch_rows: int,
        seed: int | None = None,
        fresh_negatives: bool = False,
        negatives: int | None = None,
    ) -> None:
        """Prepare one part.

        Args:
            data: the encoded data set.
            part: ``train``, ``valid`` or ``test``.
            batch_rows: rows (request-candidate pairs) a batch; requests are never split.
            seed: shuffles each epoch; None keeps the stored order.
            fresh_negatives, negatives: see Candidates; sampled labels only.
        """
        self.data = data
        self.rows = data.dataset.parts[part]
        self.drawn = Candidates(data.dataset, part, seed or 0, fresh_negatives, negatives)
        self.candidates = self.drawn.count
        self.requests: int = max(1, batch_rows // self.candidates)
        self.seed = seed
        context = self.rows.context
        self.context = data.encoder.encode("context", context) if context is not None else None
        self.given = data.encoder.encode("pair", self.rows.pairs) if self.rows.pairs is not None else None
        self.slot = np.empty(data.behaviours.rows, dtype=np.int64)

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.requests)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from the ``start``-th on."""
        order = np.arange(len(self.rows))
        if self.seed is not None:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        items = self.drawn.of(epoch)
        edges = np.linspace(0, len(order), len(self) + 1).astype(np.int64)  # even sizes: no tiny last batch
        for step in range(start, len(self)):
            chosen = order[edges[step] : edges[step + 1]]
            yield self._batch(chosen, items[chosen].ravel())

    def _labels(self, chosen: Ints) -> Tensor:
        """(n, C); where negatives are sampled every row has the same."""
        labels = self.rows.labels[chosen].astype(np.float32)
        if labels.shape[1] < self.candidates:
            labels = np.pad(labels, ((0, 0), (0, self.candidates - labels.shape[1])))
        return torch.from_numpy(labels[:, : self.candidates])

    def _batch(self, chosen: Ints, items: Rowids) -> Batch:
        rows: Rows = self.rows
        users = rows.users[chosen]
        entries, lengths = self.data.dataset.timelines.windows(users, rows.ends[chosen], self.data.encoder.history)
        distinct, places = self._distinct(entries)
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        context: Features | None = self.context.take(torch.from_numpy(chosen)) if self.context is not None else None
        behaviours = self.data.behaviours.take(torch.from_numpy(distinct))
        history = Ragged(torch.from_numpy(places), torch.from_numpy(offsets))
        candidates = self.data.items.take(torch.from_numpy(items.astype(np.int64)))
        return Batch(
            user=self.data.users.take(torch.from_numpy(users.astype(np.int64))).beside(context),
            behaviours=behaviours,
            history=history,
            items=candidates,
            labels=self._labels(chosen),
            pairs=self._pairs(chosen, behaviours, history, candidates),
            grades=None if rows.grades is None else torch.from_numpy(rows.grades[chosen].astype(np.float32)),
        )

    def _pairs(self, chosen: Ints, behaviours: Features, history: Ragged, items: Features) -> Features | None:
        """Pair features that came with the events, and those that are counted from the histories."""
        if not self.data.encoder.schema.pair:
            return None
        given = None if self.given is None else self.given.take(torch.from_numpy(self.rows.places(chosen)))
        return self.data.encoder.matches(behaviours, history, items).beside(given)

    def _distinct(self, entries: Ints) -> tuple[Ints, Ints]:
        """The distinct behaviours of a batch, and where each entry stands among them.

        A table with one slot a behaviour does what np.unique does, without sorting.
        """
        present = np.zeros(len(self.slot), dtype=bool)
        present[entries] = True
        distinct = np.flatnonzero(present)
        self.slot[distinct] = np.arange(len(distinct))
        return distinct, self.slot[entries]
