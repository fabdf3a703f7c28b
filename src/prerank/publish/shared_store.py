"""Item rows in a server of the Redis protocol, beside the store that they come from.

A row is one value, packed as the store keeps it, under a key that begins with the name of its generation, so that rows
of two models can never meet. A marker says what is there, and how much of it is there already.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prerank.errors import ArtefactError, ConfigError
from prerank.publish.item_ids import Ints
from prerank.publish.precision import ON_DISK, Vectors
from prerank.publish.store import ItemStore
from prerank.publish.store_files import from_disk, to_disk

GENERATIONS = b"prerank:generations"
"""The set of generations that have keys."""
CHUNK = 2000  # rows written, or keys set to expire, by one command

Values = Sequence[bytes | None]


def connect(url: str, timeout: float, password: str | None = None) -> Any:
    """A client that waits for no answer longer than ``timeout`` seconds, and does not try again.

    Args:
        url: of the server; a password in it counts more than the other one.
        timeout: of each read of the socket.
        password: of the server.

    Raises:
        ConfigError: the URL is none, or the client library is not installed.
    """
    try:
        redis, backoff, retry = (import_module(name) for name in ("redis", "redis.backoff", "redis.retry"))
    except ModuleNotFoundError:
        raise ConfigError("redis: needs more packages; install them with: pip install 'prerank[redis]'") from None
    rest = {} if urlsplit(url).password or not password else {"password": password}
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=retry.Retry(backoff.NoBackoff(), 0),
            protocol=2,
            **rest,
        )
    except ValueError:  # whose message may show a part of a password
        raise ConfigError("redis: not the URL of a server: redis://HOST:PORT/DB, rediss://… or unix://PATH") from None


def keys_of(generation: str, positions: Ints) -> list[bytes]:
    """The keys of the rows at (K,) positions."""
    prefix, numbers = f"prerank:{generation}:".encode(), positions.astype(">u4").tobytes()
    return [prefix + numbers[place : place + 4] for place in range(0, len(numbers), 4)]


def marker_of(generation: str) -> bytes:
    """The key of the marker."""
    return f"prerank:{generation}".encode()


@dataclass(frozen=True)
class Packing:
    """How a row is one value: its numbers as the store keeps them, and with int8 what a step of it is worth."""

    store: ItemStore

    @property
    def facts(self) -> dict[str, Any]:
        """What the marker says of all rows."""
        rows, width = self.store.rows.values.shape
        return {"rows": rows, "width": width, "precision": self.store.precision}

    @property
    def size(self) -> int:
        """Bytes of a value."""
        scale = 4 if self.store.rows.scales is not None else 0
        return self.store.rows.values.shape[1] * ON_DISK[self.store.precision].itemsize + scale

    def pack(self, rows: Vectors) -> list[bytes]:
        """The values of rows."""
        numbers = np.ascontiguousarray(to_disk(rows.values)).view(np.uint8).reshape(len(rows), -1)
        parts = [numbers] if rows.scales is None else [numbers, _bytes_of(rows.scales)]
        whole, size = np.concatenate(parts, axis=1).tobytes(), self.size
        return [whole[place : place + size] for place in range(0, len(rows) * size, size)]

    def unpack(self, values: Sequence[bytes]) -> Tensor:
        """(K, W) float32 rows, the ones that the store itself gives, bit by bit."""
        precision, width = self.store.precision, self.store.rows.values.shape[1]
        table = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), self.size)
        end = width * ON_DISK[precision].itemsize
        numbers = from_disk(table[:, :end].tobytes(), (len(values), width), precision)
        scales = None if precision != "int8" else from_disk(table[:, end:].tobytes(), (len(values),), "float32")
        return Vectors(numbers, scales).take(torch.arange(len(values)))


@dataclass(frozen=True)
class FetchedStore(ItemStore):
    """A store whose rows of some items were fetched; all else of it is as it was.

    Attributes:
        at: the positions of these items, ascending; no others may be asked for.
        fetched: (K, W) float32 their rows.
    """

    at: Ints
    fetched: Tensor

    @classmethod
    def over(cls, store: ItemStore, at: Ints, fetched: Tensor) -> Self:
        """A store with fetched rows."""
        return cls(**{field.name: getattr(store, field.name) for field in fields(ItemStore)}, at=at, fetched=fetched)

    def floats(self, positions: Ints) -> tuple[NDArray[np.float32], Ints]:
        """See ``ItemStore``."""
        return self.fetched.numpy(), np.searchsorted(self.at, positions)

    def _vectors(self, positions: Ints) -> Tensor:
        return self.fetched.index_select(0, torch.from_numpy(np.searchsorted(self.at, positions)))


def push(store: ItemStore, server: Any, keep: float, progress: Callable[[int], None]) -> tuple[int, int]:
    """Write every row of a store to a server, some at a time, and let those of other generations expire.

    A push that was interrupted goes on where it was; one of what is complete writes it again.

    Args:
        store: with rows in the order of the catalogue; upserted items are not among them.
        server: a client of ``connect``.
        keep: seconds that rows of other generations stay.
        progress: told how many rows are there.

    Returns:
        How many rows were there already, and how many keys of other generations expire.

    Raises:
        ArtefactError: the server does not take them.
    """
    try:
        return _push(Packing(store), server, progress), _expire(store.generation, server, keep)
    except import_module("redis").RedisError as error:
        raise ArtefactError(f"redis: {error}; push again to go on") from None


def _push(packing: Packing, server: Any, progress: Callable[[int], None]) -> int:
    store = packing.store
    marker, facts = marker_of(store.generation), packing.facts
    begun = read_marker(server, store.generation)
    there = begun["pushed"] if begun and {**begun, "pushed": 0} == {**facts, "pushed": 0} else 0
    there = 0 if there >= len(store) else there  # complete: it is written again, and stays complete meanwhile
    server.sadd(GENERATIONS, store.generation)
    for start in range(there, len(store), CHUNK):
        stop = min(start + CHUNK, len(store))
        names = keys_of(store.generation, np.arange(start, stop))
        server.mset(dict(zip(names, packing.pack(store.rows.part(start, stop)), strict=True)))
        if begun is None or begun["pushed"] < len(store):
            server.set(marker, json.dumps({**facts, "pushed": stop}))
        progress(stop)
    server.set(marker, json.dumps({**facts, "pushed": len(store)}))  # without an expiry, should it have had one
    return there


def _expire(current: str, server: Any, keep: float) -> int:
    expiring, milliseconds = 0, max(1, round(1000 * keep))
    for name in sorted(server.smembers(GENERATIONS)):
        generation = name.decode()
        if generation == current:
            continue
        facts = read_marker(server, generation)
        for positions in _parts(facts["rows"] if facts else 0):
            pipeline = server.pipeline(transaction=False)
            for key in keys_of(generation, positions):
                pipeline.pexpire(key, milliseconds)
            expiring += sum(pipeline.execute())
        server.delete(marker_of(generation))  # who starts with it now shall not rely on rows that go away
        server.srem(GENERATIONS, name)
    return expiring


def read_marker(server: Any, generation: str) -> dict[str, Any] | None:
    """What is there of a generation: the facts of its packing, and ``pushed``, the number of rows; None if nothing."""
    text = server.get(marker_of(generation))
    try:
        facts = None if text is None else json.loads(text)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and isinstance(facts.get("pushed"), int) else None


def _parts(rows: int) -> Iterator[Ints]:
    for start in range(0, rows, CHUNK):
        yield np.arange(start, min(start + CHUNK, rows))


def _bytes_of(scales: Tensor) -> NDArray[np.uint8]:
    return scales.numpy().astype("<f4").view(np.uint8).reshape(len(scales), 4)
