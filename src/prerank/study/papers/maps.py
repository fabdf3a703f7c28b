"""Representations in the plane: items with meta queries (FIT, Fig. 6), users with their items (IntTower, Fig. 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from prerank.data.loader import EncodedDataset, Loader
from prerank.data.log import Dataset, Ints
from prerank.errors import DataError
from prerank.evaluation.metrics import auc
from prerank.publish.bundle import load_bundle
from prerank.study.experiment import BUNDLE
from prerank.study.figures import INK, PALETTE, draw_map
from prerank.study.item_map import ItemMap, embed_items, project

USERS, ROWS, BOTH, SEED = 6, 10, 3, 0
"""Of a map of users: so many, each with its last so many held-out rows, at least so many of either label."""
MARKERS = "osD^vP"


def maps(kind: str, runs: Mapping[str, Path], dataset: Dataset) -> dict[str, Any]:
    """The map of each row that a study's figure shows, JSON-ready; empty for figures of other kinds.

    An item map is an ``ItemMap``. A user map has for each point its place, ``user`` (0, 1, …) and ``label`` (-1 the
    user, 1 a positive, 0 a negative), and ``separation``: the mean over these users of the AUC of cosines, before the
    projection.

    Raises:
        DataError: a row has no meta queries, or users have too few held-out rows.
        PrerankError: scikit-learn is not installed.
    """
    made = {"item_map": _item_map, "user_map": _user_map}.get(kind)
    return {row: made(run, dataset) for row, run in runs.items()} if made else {}


def draw_item_map(axes: Any, result: Mapping[str, Any], row: str) -> None:
    """Items in the colour of their query, hard queries as stars."""
    values = result["maps"][row]
    places = {key: _places(values[key]) for key in ("items", "queries")}
    numbers = {key: _numbers(values[key]) for key in ("index", "used")}
    draw_map(axes, ItemMap(**{**values, **places, **numbers}))
    agrees = f"nearest neighbour of the same query: {values['agreement']:.0%}, by chance {values['chance']:.0%}"
    axes.set_title(f"{result['rows'][row]['title']}\n{agrees}", fontsize=9)


def draw_user_map(axes: Any, result: Mapping[str, Any], row: str) -> None:
    """A mark a user: large and black the user, small and coloured the items."""
    values = result["maps"][row]
    places, users, labels = _places(values["places"]), _numbers(values["user"]), _numbers(values["label"])
    axes.set_xticks([])
    axes.set_yticks([])
    for user, marker in zip(np.unique(users), cycle(MARKERS), strict=False):
        for label, colour, size, name in (
            (0, PALETTE[3], 22, "negative"),
            (1, PALETTE[2], 22, "positive"),
            (-1, INK, 80, "user"),
        ):
            chosen = places[(users == user) & (labels == label)]
            shown = name if user == 0 else None
            axes.scatter(*chosen.T, c=colour, s=size, marker=marker, alpha=0.85, linewidths=0, label=shown)
    axes.set_title(f"{result['rows'][row]['title']}\nAUC by cosine {values['separation']:.2f}", fontsize=9)


def _item_map(run: Path, dataset: Dataset) -> dict[str, Any]:
    bundle = load_bundle(run / BUNDLE)
    placed = embed_items(bundle.model, bundle.encoder.encode("item", dataset.items))
    if placed is None:
        raise DataError(f"{run}: a model without meta queries has no item map")
    return {key: _text(value) for key, value in asdict(placed).items()}


@torch.inference_mode()
def _user_map(run: Path, dataset: Dataset) -> dict[str, Any]:
    """Users at their last held-out moment, with the items of their held-out rows.

    A user is what meets the item's stored row: the last columns of its own, for IntTower the heads of the last layer.
    """
    bundle = load_bundle(run / BUNDLE)
    chosen = _held_out(dataset)
    part = dataset.parts["valid"].take(chosen)
    data = EncodedDataset(replace(dataset, parts={"valid": part}), bundle.encoder)
    (batch,) = Loader(data, "valid", part.items.size).batches()
    items = bundle.model.item(batch.items)
    users = bundle.model.user(batch.user, bundle.model.history(batch))[:, -items.shape[1] :]
    _, user = np.unique(part.users, return_inverse=True)
    last = torch.from_numpy(np.array([np.flatnonzero(user == each)[-1] for each in range(USERS)]))
    owners, labels = np.repeat(user, part.items.shape[1]), np.asarray(part.labels).ravel()
    unit = F.normalize(torch.cat([users[last], items]), dim=-1)
    cosines = (unit[owners] * unit[USERS:]).sum(dim=-1).double().numpy()
    separation = [auc(labels[owners == each], cosines[owners == each]) for each in range(USERS)]
    return {
        "places": _text(project(Tensor(unit))),
        "user": _text(np.r_[np.arange(USERS), owners]),
        "label": _text(np.r_[np.full(USERS, -1), labels.astype(np.int64)]),
        "separation": float(np.mean(separation)),
    }


def _held_out(dataset: Dataset) -> Ints:
    """Rows of the validation part: the latest of some users who have enough of them, of both labels."""
    part = dataset.parts["valid"]
    users, labels = np.asarray(part.users), np.asarray(part.labels)
    latest = (np.flatnonzero(users == user)[-ROWS:] for user in np.flatnonzero(np.bincount(users) >= ROWS))
    mixed = [rows for rows in latest if BOTH <= labels[rows].sum() <= labels[rows].size - BOTH]
    if len(mixed) < USERS:
        needed = f"{ROWS} validation rows, {BOTH} of either label"
        raise DataError(f"{dataset.name}: fewer than {USERS} users have {needed}; no map of users")
    some = np.random.default_rng(SEED).choice(len(mixed), USERS, replace=False)
    return np.concatenate([mixed[number] for number in np.sort(some)])


def _text(value: Any) -> Any:
    """An array as the text of its numbers, since indented JSON has a line for each; places have two decimals."""
    if not isinstance(value, np.ndarray):
        return value
    flat = value.ravel()
    return " ".join(f"{number:.2f}" for number in flat) if value.dtype.kind == "f" else " ".join(map(str, flat))


def _numbers(text: str) -> Ints:
    return np.array(text.split(), dtype=np.int64)


def _places(text: str) -> NDArray[np.float32]:
    """(R, 2) of what ``_text`` has written."""
    return np.array(text.split(), dtype=np.float32).reshape(-1, 2)
