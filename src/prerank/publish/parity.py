"""The parity gate: what will be served must be what was evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from prerank.data.loader import EncodedDataset, Loader
from prerank.data.log import Dataset, Rows
from prerank.errors import ArtefactError
from prerank.publish.bundle import Bundle
from prerank.publish.generation import Generation
from prerank.publish.precision import Precision
from prerank.publish.raw_requests import raw_requests

REQUESTS, CANDIDATES = 100, 10  # 1,000 pairs
DRAWN = 20 * REQUESTS  # test rows among which requests are looked for whose past items are all in the catalogue
SEED = 20_25

TOLERANCE: dict[Precision, float] = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2, "int8": 6.4e-2}
"""Largest difference of a logit, times max(1, |logit|, standard deviation of logits) because rounding is relative to
the terms of a sum, which may cancel each other. float32: sums of some hundred
products in another order. float16: a stored value is off by at most 2^-11 of itself; four times that, 2e-3, leaves
room for scales and layers behind it, while a wrong row, index or history is off by far more. bfloat16: eight times
that of float16, having three bits less. int8: a value is off by at most 2^-8 of the largest one of its row, as the
largest one is with bfloat16; the others are three to four times smaller, so that the sum is off by up to four times
as much."""


def check_parity(generation: Generation, bundle: Bundle, dataset: Dataset) -> None:
    """Score 1,000 random pairs, requests of the test part with random items, from raw values by both ways.

    Args:
        generation: the written files, as serving opens them.
        bundle: the trained model as it was evaluated, in evaluation mode.
        dataset: where requests and items are drawn from; those that the catalogue does not have are passed over.

    Raises:
        ArtefactError: some logit differs; the pair is named. Or no test request can be answered from this catalogue.
    """
    rows = _random_requests(dataset, generation)
    expected = _evaluated(bundle, dataset, rows)
    served = _served(generation, dataset, rows)
    tolerance = TOLERANCE[generation.store.precision]
    close = np.abs(served - expected) <= tolerance * np.maximum(max(1.0, float(expected.std())), np.abs(expected))
    if not close.all():
        request, candidate = np.argwhere(~close)[0]
        user = dataset.users[dataset.schema.user_id][int(rows.users[request])]
        item = dataset.items[dataset.schema.item_id][int(rows.items[request, candidate])]
        raise ArtefactError(
            f"parity: {int((~close).sum())} of {close.size} served logits differ from evaluation's by more than "
            f"{tolerance:g}, first user {user!r} with item {item!r}: "
            f"{served[request, candidate]:.6g} against {expected[request, candidate]:.6g}; nothing is published"
        )


def _random_requests(dataset: Dataset, generation: Generation) -> Rows:
    """Requests of the test part, with candidates drawn from all items that data set and catalogue share."""
    rng = np.random.default_rng(SEED)
    test = dataset.parts["test"]
    _, known = generation.store.lookup(dataset.items[dataset.schema.item_id].to_list())
    rows = test.take(rng.integers(len(test), size=DRAWN))
    rows = rows.take(_remembered(dataset, rows, generation.bundle.encoder.history, known)[:REQUESTS])
    if not len(rows):
        raise ArtefactError("parity: no test request of the data set has all its past items in this catalogue")
    items = rng.choice(np.flatnonzero(known).astype(np.int32), size=(len(rows), CANDIDATES))
    pairs = None if test.pairs is None else test.pairs[rng.integers(test.pairs.height, size=items.size)]
    return replace(rows, items=items, labels=np.zeros(items.shape, dtype=np.uint8), pairs=pairs)


def _remembered(dataset: Dataset, rows: Rows, length: int, known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The places of those rows whose whole visible history is in the catalogue."""
    places = np.arange(len(rows))
    if dataset.schema.history_of == "records":
        return places
    entries, lengths = dataset.timelines.windows(rows.users, rows.ends, length)
    return np.setdiff1d(places, np.repeat(places, lengths)[~known[entries]])


@torch.inference_mode()
def _evaluated(bundle: Bundle, dataset: Dataset, rows: Rows) -> NDArray[np.float64]:
    """(requests, candidates) logits by evaluation's way: encoded tables, batches, ``forward``."""
    encoded = EncodedDataset(replace(dataset, parts={**dataset.parts, "test": rows}), bundle.encoder)
    batches = Loader(encoded, "test", batch_rows=rows.items.size).batches()
    return torch.cat([bundle.model(batch.to(bundle.device)) for batch in batches]).double().cpu().numpy()


def _served(generation: Generation, dataset: Dataset, rows: Rows) -> NDArray[np.float64]:
    """(requests, candidates) logits by serving's way: one request of raw values after the other."""
    requests = raw_requests(dataset, rows, generation.bundle.encoder.history)
    candidates = dataset.items[dataset.schema.item_id][rows.items.ravel()].to_list()
    positions, _ = generation.store.lookup(candidates)
    logits = [
        generation.logits(
            request.user,
            request.context,
            request.past,
            positions[number * CANDIDATES : (number + 1) * CANDIDATES],
            {} if rows.pairs is None else _columns(rows.pairs[number * CANDIDATES : (number + 1) * CANDIDATES]),
        )[0]
        for number, request in enumerate(requests)
    ]
    return np.stack(logits)


def _columns(table: pl.DataFrame) -> Mapping[str, Sequence[Any]]:
    return {name: table[name].to_list() for name in table.columns}
