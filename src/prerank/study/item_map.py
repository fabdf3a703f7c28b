"""Item embeddings and meta queries in the plane (FIT sec. 5.4.3, Fig. 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from prerank.batch import Features
from prerank.models.base import PreRankingModel
from prerank.models.fit import FIT
from prerank.study.figures import require

LIMIT, PERPLEXITY, SEED = 3000, 30, 0


@dataclass(frozen=True)
class ItemMap:
    """R items and the M meta queries that they use, placed by one joint t-SNE of their directions.

    Attributes:
        items: (R, 2) places.
        index: (R,) query index of each item.
        queries: (M, 2) places of the hard queries in use.
        used: (M,) their indices, ascending.
        meta_queries: N, used or not.
        catalogue: number of items that the R were drawn from.
        item_norm: median norm of an item's embedding.
        query_norm: median norm of a hard query in use.
        agreement: share of items whose nearest other item, by cosine before the projection, has the same index.
        chance: what that share would be if indices were dealt at random.
    """

    items: NDArray[np.float32]
    index: NDArray[np.int64]
    queries: NDArray[np.float32]
    used: NDArray[np.int64]
    meta_queries: int
    catalogue: int
    item_norm: float
    query_norm: float
    agreement: float
    chance: float


@torch.inference_mode()
def embed_items(model: PreRankingModel, items: Features) -> ItemMap | None:
    """Place items and hard queries in one plane; None for a model without meta queries.

    Hard queries are about a hundred times as long as item embeddings, so all vectors are brought to unit length
    and compared by cosine. At most ``LIMIT`` items are drawn.

    Raises:
        PrerankError: scikit-learn is not installed.
        ValueError: fewer than four items.
    """
    if not isinstance(model, FIT) or not model.index_columns:
        return None
    if items.rows < 4:
        raise ValueError(f"a map needs at least four items, got {items.rows}")
    catalogue = items.rows
    if catalogue > LIMIT:
        chosen = np.random.default_rng(SEED).choice(catalogue, LIMIT, replace=False)
        items = items.take(torch.from_numpy(np.sort(chosen)))
    device = next(model.parameters()).device
    embedded = model.behaviour(items.map(lambda tensor: tensor.to(device)))
    index = model.queries.index(embedded)
    used = index.unique()
    queries = model.queries.hard(used)
    unit = F.normalize(torch.cat([embedded, queries]), dim=-1).cpu()
    places = project(unit)
    return ItemMap(
        items=places[: items.rows],
        index=index.cpu().numpy(),
        queries=places[items.rows :],
        used=used.cpu().numpy(),
        meta_queries=model.config.meta_queries,
        catalogue=catalogue,
        item_norm=float(embedded.norm(dim=-1).median()),
        query_norm=float(queries.norm(dim=-1).median()),
        agreement=_agreement(unit[: items.rows], index.cpu()),
        chance=_chance(index.cpu().numpy()),
    )


def project(unit: Tensor) -> NDArray[np.float32]:
    """(R, 2) t-SNE of (R, D) unit vectors by cosine distance, seeded."""
    perplexity = min(PERPLEXITY, (len(unit) - 1) / 3)
    tsne = require("sklearn.manifold").TSNE(
        metric="cosine", init="pca", perplexity=perplexity, learning_rate="auto", max_iter=500, random_state=SEED
    )
    places: NDArray[np.float32] = tsne.fit_transform(unit.numpy())
    return places


def _agreement(unit: Tensor, index: Tensor) -> float:
    """Share of rows whose nearest other row by cosine has the same index."""
    nearest = (unit @ unit.T).fill_diagonal_(-torch.inf).argmax(dim=-1)
    return float((index[nearest] == index).double().mean())


def _chance(index: NDArray[np.int64]) -> float:
    """Probability that two different items drawn at random have the same index."""
    counts = np.bincount(index)
    return float((counts * (counts - 1)).sum() / (len(index) * (len(index) - 1)))
