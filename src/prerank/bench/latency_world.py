"""What latency is measured on: models with random weights, published with a synthetic catalogue; requests to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from prerank.batch import Features
from prerank.data.encoder import Encoder
from prerank.data.vocabulary import Vocabulary
from prerank.models.registry import MODELS, create, model_config
from prerank.publish.bundle import Bundle, write_bundle
from prerank.publish.encode import Progress, encode_catalogue
from prerank.publish.files import content_hash, new_generation, seal
from prerank.publish.generation import STORE, Generation, open_generation
from prerank.publish.item_ids import Ints
from prerank.publish.plan.base import Floats, Past, PlainPlan
from prerank.publish.plan.choice import random_user
from prerank.publish.precision import Precision
from prerank.schema import Field, Schema

HISTORY = 200  # the longest history that is measured
KNOWN_ITEMS = 500_000  # in the vocabulary; of a larger catalogue, the others are told apart by their attributes

SCHEMA = Schema(
    user_id="user_id",
    item_id="item_id",
    user=tuple(Field(name=name) for name in ("user_id", "gender", "age", "occupation", "area")),
    item=(Field(name="item_id"), Field(name="category"), Field(name="brand")),
    history=("item_id", "category"),
)
VALUES = {
    "user.user_id": 100_000,
    "user.gender": 2,
    "user.age": 7,
    "user.occupation": 21,
    "user.area": 3_000,
    "item.category": 1_000,
    "item.brand": 50_000,
}
"""Fields like MovieLens-1M's, with two attributes of items."""


@dataclass(frozen=True)
class Request:
    """One request, as raw values and with what serving makes of them.

    Attributes:
        user: raw values of the user fields.
        features: the same, encoded.
        past: (L,) item ids of the history, which are also the items' positions.
        positions: (K,) likewise of the candidates.
    """

    user: dict[str, int]
    features: Features
    past: Ints
    positions: Ints


def catalogue(items: int, seed: int) -> pl.DataFrame:
    """Items with ids from 0 on and random attributes."""
    rng = np.random.default_rng(seed)
    attributes = {name: rng.integers(VALUES[f"item.{name}"], size=items) for name in ("category", "brand")}
    return pl.DataFrame({"item_id": np.arange(items), **attributes})


def random_bundle(name: str, items: int, seed: int, **changes: Any) -> Bundle:
    """A model of the registry with its own default sizes and random weights.

    Args:
        name: of the model.
        items: of the catalogue.
        seed: of the weights.
        changes: of its configuration.
    """
    sizes = {**VALUES, "item.item_id": min(items, KNOWN_ITEMS)}
    coders = {field: Vocabulary([str(value) for value in range(size)]) for field, size in sizes.items()}
    encoder = Encoder(SCHEMA, HISTORY, coders)
    # embeddings as wide apart as trained ones, so that items choose different meta queries
    wide = {"embedding_std": 0.1} if "embedding_std" in MODELS[name].config.model_fields else {}
    config = model_config({"name": name, **wide, **changes}, "bench latency")
    torch.manual_seed(seed)
    return Bundle(create(config, encoder.inputs).eval(), encoder, config, {})


def publish(bundle: Bundle, items: pl.LazyFrame, directory: Path, dtype: Precision, progress: Progress | None) -> None:
    """Write a generation as ``prerank publish`` does, but for the parity gate, which needs a data set."""
    directory.mkdir(parents=True)
    write_bundle(bundle, directory)
    content = content_hash(directory)
    generation = new_generation(content)
    encode_catalogue(bundle, items, directory / STORE, generation, content, dtype=dtype, progress=progress)
    seal(directory, generation, bundle.name)


def opened(directory: Path) -> tuple[Generation, Generation]:
    """A generation as ``prerank serve`` opens it, and the same one by the model's own functions (naive, eager)."""
    served = open_generation(directory, preload=True)
    return served, replace(served, plan=PlainPlan(served.bundle.model))


def item_bytes(directory: Path) -> float:
    """Bytes of the store that one more item takes, its id, behaviour and place in the hash table included."""
    facts = {path.name: path.stat().st_size for path in (directory / STORE).iterdir()}
    rows = np.load(directory / STORE / "ids.npy", mmap_mode="r").shape[0]
    return float(sum(facts.values()) / rows)


def representation_bytes(generation: Generation) -> float:
    """Bytes of one item's representation alone, with its query index: the storage cost of FIT's Table 2."""
    store = generation.store
    index = 0 if store.index is None else store.index.nbytes
    return (store.rows.nbytes + index) / len(store)


def random_requests(
    generation: Generation, count: int, candidates: int, history: int, items: int, seed: int
) -> list[Request]:
    """Random users with random histories and candidates; no two histories share an item while there are enough."""
    past = np.resize(np.random.default_rng(seed).permutation(items), (count, history))
    rng, inputs = np.random.default_rng(seed), generation.bundle.model.inputs
    names = {field.name: VALUES[f"user.{field.name}"] for field in SCHEMA.user}
    return [
        Request(
            user={name: int(rng.integers(size)) for name, size in names.items()},
            features=random_user(inputs, rng),
            past=past[number],
            positions=rng.integers(items, size=candidates),
        )
        for number in range(count)
    ]


def scoring(generation: Generation) -> Callable[[Request], Floats]:
    """From encoded features and positions in the store to logits: what the plans are compared in."""
    store, plan = generation.store, generation.plan

    @torch.inference_mode()
    def answer(request: Request) -> Floats:
        if store.behaviours is None:
            raise AssertionError("histories of the benchmark are items")
        known = np.ones(len(request.past), dtype=np.bool_)
        past = Past(store.remember(request.past, known), request.past)
        return plan.logits(request.features, past, store, request.positions)

    return answer


def queries_used(generation: Generation, requests: Sequence[Request]) -> float:
    """How many different meta queries the candidates of a request use, on average."""
    used: list[NDArray[Any]] = [np.unique(generation.store.indices(request.positions)) for request in requests]
    return float(np.mean([len(each) for each in used]))
