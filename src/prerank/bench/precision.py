"""What each precision of the item store costs in quality, on a finished run's test part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prerank.batch import History, Ragged
from prerank.data.loader import EncodedDataset, Loader
from prerank.data.log import Dataset
from prerank.errors import DataError
from prerank.evaluation.metrics import auc, log_loss
from prerank.publish.bundle import Bundle
from prerank.publish.encode import encode_catalogue
from prerank.publish.parity import TOLERANCE
from prerank.publish.precision import PRECISIONS, Precision
from prerank.publish.store import ItemStore

BATCH_ROWS = 8192
TOP = 100

Floats = NDArray[np.float64]


def precision(bundle: Bundle, dataset: Dataset, directory: Path, requests: int, seed: int) -> dict[str, Any]:
    """Score the test part from stores of every precision.

    Args:
        bundle: a trained model.
        dataset: its data.
        directory: an empty one, for the stores.
        requests: random requests of the test part whose best items of the whole catalogue are compared.
        seed: draws them.

    Returns:
        For each precision: bytes an item, AUC and log loss of the test part, and how many requests have the best
        ``TOP`` items of float32.

    Raises:
        DataError: the model's histories are records, which no store holds.
    """
    if dataset.schema.history_of != "items":
        raise DataError("precision: histories of this data set are records, which are not kept in a store")
    encoded, results = EncodedDataset(dataset, bundle.encoder), {}
    test = dataset.parts["test"]
    chosen = np.sort(np.random.default_rng(seed).choice(len(test), size=min(requests, len(test)), replace=False))
    some = replace(dataset, parts={**dataset.parts, "test": test.take(chosen)})
    exact: Floats | None = None
    for name in PRECISIONS:
        place = directory / name
        encode_catalogue(bundle, dataset.items.lazy(), place, name, "m", dtype=name, progress=None)
        store = ItemStore.open(place)
        logits = _test_logits(bundle, encoded, store)
        labels = test.labels.ravel()
        every = _catalogue_logits(bundle, some, store)
        exact = every if exact is None else exact
        results[name] = {
            "row_bytes": store.rows.nbytes / len(store),
            "auc": auc(labels, logits),
            "logloss": log_loss(labels, logits),
            "largest_logit_difference": float(np.abs(every - exact).max()),
            **_same_best(exact, every, name),
        }
    reference = results["float32"]
    for result in results.values():
        result["row_bytes_share"] = result["row_bytes"] / reference["row_bytes"]
        result["auc_difference"] = result["auc"] - reference["auc"]
    return {
        "model": bundle.name,
        "data": dataset.name,
        "items": dataset.items.height,
        "test_rows": int(test.items.size),
        "requests": len(chosen),
        "top": TOP,
        "seed": seed,
        "precisions": results,
    }


@torch.inference_mode()
def _test_logits(bundle: Bundle, encoded: EncodedDataset, store: ItemStore) -> Floats:
    """Logits of the test part in the order of its rows, all of items and behaviours from the store."""
    rows, begun, parts = encoded.dataset.parts["test"], 0, []
    for batch in Loader(encoded, "test", BATCH_ROWS).batches():
        stop = begun + len(batch.labels)
        entries, _ = encoded.dataset.timelines.windows(
            rows.users[begun:stop], rows.ends[begun:stop], bundle.encoder.history
        )
        items = store.gather(rows.items[begun:stop].ravel().astype(np.int64)).unflatten(0, batch.labels.shape)
        history = History(_remembered(store, np.unique(entries)), batch.history)
        parts.append(bundle.model.pair(batch.user, history, items).double().ravel())
        begun = stop
    return torch.cat(parts).numpy()


@torch.inference_mode()
def _catalogue_logits(bundle: Bundle, dataset: Dataset, store: ItemStore) -> Floats:
    """(requests, R) logits of every item of the catalogue."""
    encoded, rows = EncodedDataset(dataset, bundle.encoder), dataset.parts["test"]
    items = store.gather(np.arange(len(store)))
    logits = []
    for number, batch in enumerate(Loader(encoded, "test", 1).batches()):
        entries, _ = dataset.timelines.windows(
            rows.users[number : number + 1], rows.ends[number : number + 1], bundle.encoder.history
        )
        steps = Ragged(torch.arange(len(entries)), torch.tensor([0, len(entries)]))
        user = bundle.model.user(batch.user, History(_remembered(store, entries), steps))
        logits.append(bundle.model.score(user, items).double())
    return torch.stack(logits).numpy()


def _remembered(store: ItemStore, entries: NDArray[np.int64]) -> Tensor:
    return store.remember(entries, np.ones(len(entries), dtype=np.bool_))


def _same_best(exact: Floats, given: Floats, name: Precision) -> dict[str, Any]:
    """How many requests have the same best items; items whose exact logits are within the tolerance are ties."""
    same = tied = shared = 0
    widest = 0.0
    for right, got in zip(exact, given, strict=True):
        best, other = (set(np.argsort(-logits, kind="stable")[:TOP].tolist()) for logits in (right, got))
        lost, won = sorted(best - other), sorted(other - best)
        shared += len(best & other)
        same += not lost
        gap = max(right[lost]) - min(right[won]) if lost else 0.0
        widest = max(widest, float(gap))
        tied += bool(gap <= TOLERANCE[name] * max(1.0, float(np.abs(right[[*lost, *won]]).max(initial=0))))
    return {
        "same_best": same,
        "same_best_up_to_ties": tied,
        "shared_of_best": shared / (TOP * len(exact)),
        "widest_exchanged_gap": widest,
    }
