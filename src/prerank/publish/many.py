"""Scores of many requests at once, users x candidates: what evaluation computes, on rows of the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prerank.batch import Features, History, Ragged, joined
from prerank.models.base import PreRankingModel
from prerank.publish.item_ids import Ints
from prerank.publish.plan.base import Past, Plan
from prerank.publish.store import ItemStore

PAIRS = 4096  # scored in one batch, as in evaluation
ALONE = 300
"""Candidates from which on a request takes no less time in company, where the measured gain ends."""
ALONE_WITH_QUERIES = 16
"""The same for models that compute a user representation for each pair's query: a single request shares them."""


def logits_of_many(
    model: PreRankingModel,
    plan: Plan,
    store: ItemStore,
    features: Features,
    past: Past,
    steps: Ragged,
    positions: Sequence[Ints],
    pairs: Sequence[Features | None],
) -> list[NDArray[np.float64]]:
    """Score the candidates of R requests.

    Small requests are scored together by ``model.pair``, by which every model is evaluated, the large ones one after
    the other by the plan, whose logits are the same.

    Args:
        model: in evaluation mode.
        plan: of the same model.
        store: where the candidates are.
        features: R rows of user and context fields.
        past: the behaviours of all requests.
        steps: R lists of rows of ``past``, which follow each other.
        positions: of each request its (K,) candidates in the store.
        pairs: of each request their K rows of pair fields; None if the model reads none.

    Returns:
        (K,) logits of each request.
    """
    counts = np.array([len(each) for each in positions], dtype=np.int64)
    logits = [np.zeros(0) for _ in positions]
    alone = ALONE_WITH_QUERIES if model.index_columns else ALONE
    starts = steps.offsets.tolist()
    for request in np.flatnonzero(counts >= alone).tolist():
        own = slice(starts[request], starts[request + 1])
        of_request = Past(past.table[own], None if past.items is None else past.items[own])
        one = features.take(torch.tensor([request]))
        logits[request] = plan.logits(one, of_request, store, positions[request], pairs[request]).astype(np.float64)
    history = History(past.table, steps)
    small = np.flatnonzero((counts > 0) & (counts < alone))
    for group in _groups(small[np.argsort(counts[small], kind="stable")], counts):
        theirs = [positions[request] for request in group]
        scored = _together(model, store, features, history, group, theirs, [pairs[request] for request in group])
        for request, row in zip(group.tolist(), scored, strict=True):
            logits[request] = row[: counts[request]]
    return logits


def _groups(requests: Ints, counts: Ints) -> Iterator[Ints]:
    """Requests of similar size, as many as make a batch; they come from small to large."""
    start = 0
    while start < len(requests):
        widths = counts[requests[start:]] * np.arange(1, len(requests) - start + 1)
        stop = start + max(1, int((widths <= PAIRS).sum()))
        yield requests[start:stop]
        start = stop


def _together(
    model: PreRankingModel,
    store: ItemStore,
    features: Features,
    history: History,
    requests: Ints,
    positions: Sequence[Ints],
    pairs: Sequence[Features | None],
) -> NDArray[np.float64]:
    """(B, C) logits of B requests, the shorter ones filled up with their last candidate, which changes no other's."""
    device = next(model.parameters()).device
    width = max(map(len, positions))
    places = np.stack([np.pad(each, (0, width - len(each)), "edge") for each in positions])
    rows = torch.from_numpy(requests)
    some = History(history.table, history.steps.take(rows))
    items = store.gather(places.ravel()).unflatten(0, places.shape).to(device)
    if read := [each for each in pairs if each is not None]:
        filled = joined([each.take(torch.arange(width).clamp(max=each.rows - 1)) for each in read])
        items = model.with_pairs(items, filled.map(lambda tensor: tensor.to(device)))
    logits: Tensor = model.pair(
        features.take(rows).map(lambda tensor: tensor.to(device)),
        History(some.table.to(device), some.steps.map(lambda tensor: tensor.to(device))),
        items,
    )
    return logits.double().cpu().numpy()
