"""Rows of candidates from the shared store, as long as it gives them in time; otherwise the local store answers."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np
import torch

from prerank.publish.item_ids import Ints
from prerank.publish.shared_store import FetchedStore, Packing, Values, connect, keys_of, read_marker
from prerank.publish.store import ItemStore
from prerank.service.metrics import Metrics

PASSWORD = "PRERANK_REDIS_PASSWORD"
"""The environment variable of the server's password, where the URL has none."""
RETRY = 1.0  # seconds between looks at a server that does not give rows
PROBE = 64  # rows that are compared with the local ones before the server's are used
CHUNK = 500  # keys of one MGET; all are sent before the first answer is read

log = logging.getLogger(__name__)


class SharedRows:
    """Fetches rows of the generation that is served.

    Rows are used once a probe has found the marker of a complete push and random rows equal to the local ones, bit by
    bit. A fetch that fails or takes too long ends that: requests are answered from the local store, without waiting,
    until a probe, made by a thread of its own, succeeds again.
    """

    def __init__(self, url: str, timeout: float, threads: int, metrics: Metrics) -> None:
        """Begin to look for the server.

        Args:
            url: of the server.
            timeout: seconds that a request waits for its rows.
            threads: that may fetch at the same time.
            metrics: told what comes from where.

        Raises:
            ConfigError: the URL is none, or the client library is not installed.
        """
        self.timeout = timeout
        self.metrics = metrics
        self.metrics.shared_up.set(0)
        self._server = connect(url, timeout, os.environ.get(PASSWORD))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rows")
        self._packing: Packing | None = None  # of the generation that is served
        self._usable: str | None = None  # the generation whose rows can be had
        self._said: str | None = None  # the last reason that was logged
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="shared rows", daemon=True)
        self._thread.start()

    def serve(self, store: ItemStore) -> None:
        """Say which generation's rows are wanted from now on."""
        self._packing = Packing(store)
        self.metrics.shared_up.set(0)
        self._wake.set()

    def close(self) -> None:
        """Stop looking."""
        self._closed = True
        self._wake.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._server.close()

    def fetch(self, store: ItemStore, positions: Ints) -> tuple[ItemStore, bool]:
        """The store with the rows of the items at (K,) positions, and whether any of them had to be local ones.

        Upserted items are in the log that every process follows, so their rows are local ones by right.
        """
        at = np.unique(positions)
        shared = at[at < len(store)]
        if not len(shared):
            return store, False
        values = self._values(store, shared)
        if values is None:
            return store, True
        packing = Packing(store)
        there = np.fromiter((value is not None and len(value) == packing.size for value in values), np.bool_)
        if not there.any():
            self._fail("it has no rows of this generation any more")
            self.metrics.shared_fetches.labels("failed").inc()
            return store, True
        rows = torch.empty((len(at), store.rows.values.shape[1]))
        local = np.ones(len(at), dtype=np.bool_)
        local[: len(shared)] = ~there
        rows[torch.from_numpy(~local)] = packing.unpack(
            [value for value, good in zip(values, there, strict=True) if value is not None and good]
        )
        if local.any():
            rows[torch.from_numpy(local)] = torch.from_numpy(_local(store, at[local]))
        whole = bool(there.all())
        self.metrics.shared_fetches.labels("whole" if whole else "incomplete").inc()
        return FetchedStore.over(store, at, rows), not whole

    @property
    def up(self) -> bool:
        """Whether rows of the generation that is served come from the server."""
        return self._packing is not None and self._usable == self._packing.store.generation

    def _values(self, store: ItemStore, positions: Ints) -> Values | None:
        """What the server has of the rows, or None if it is not asked or does not answer in time."""
        if self._usable != store.generation:
            self.metrics.shared_fetches.labels("not asked").inc()
            return None
        begun = perf_counter()
        job = self._pool.submit(self._read, keys_of(store.generation, positions))
        try:
            values = job.result(self.timeout)
        except Exception as error:  # whatever the client or the server does, the local store answers
            job.cancel()
            self._fail(_reason(error, self.timeout))
            self.metrics.shared_fetches.labels("failed").inc()
            return None
        finally:
            self.metrics.shared_seconds.observe(perf_counter() - begun)
        return values

    def _read(self, keys: list[bytes]) -> Values:
        pipeline = self._server.pipeline(transaction=False)
        for start in range(0, len(keys), CHUNK):
            pipeline.mget(keys[start : start + CHUNK])
        return [value for part in pipeline.execute() for value in part]

    def _fail(self, reason: str) -> None:
        self._usable = None
        self.metrics.shared_up.set(0)
        self._say(reason)
        self._server.connection_pool.disconnect()  # also those that a thread still waits for
        self._wake.set()

    def _watch(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            while not self._closed and self._packing is not None and not self.up:
                packing = self._packing
                try:
                    self._probe(packing)
                except Exception as error:
                    self._say(_reason(error, self.timeout))
                    self._wake.wait(RETRY)  # a new generation is looked for at once
                    self._wake.clear()
                else:
                    self._usable = packing.store.generation
                    self._said = None
                    if self.up:
                        self.metrics.shared_up.set(1)
                        log.info("shared store: gives the rows of generation %s", self._usable)

    def _probe(self, packing: Packing) -> None:
        """Look whether the server's rows are those of the local store.

        Raises:
            LookupError: they are not.
        """
        store = packing.store
        marker = read_marker(self._server, store.generation)
        if marker is None or marker != {**packing.facts, "pushed": len(store)}:
            raise LookupError(f"it has not all rows of generation {store.generation}; use: prerank redis push")
        positions = np.unique(np.random.default_rng().integers(len(store), size=PROBE)) if len(store) else np.arange(0)
        values = self._read(keys_of(store.generation, positions))
        if list(values) != packing.pack(store.rows.pick(torch.from_numpy(positions))):
            raise LookupError(f"its rows are not those of generation {store.generation}; use: prerank redis push")

    def _say(self, reason: str) -> None:
        if reason != self._said:
            self._said = reason
            log.warning("shared store: is not used, the local store answers: %s", reason)


def _local(store: ItemStore, positions: Ints) -> Any:
    rows, places = store.floats(positions)
    return rows[places]


def _reason(error: Exception, timeout: float) -> str:
    if isinstance(error, LookupError):
        return str(error)
    if isinstance(error, TimeoutError) or "imeout" in type(error).__name__:
        return f"no answer within {1000 * timeout:g} ms"
    return " ".join(f"{type(error).__name__}: {error}".split())
