"""The generation that is served: the newest good one, replaced while requests are answered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from prerank.errors import PrerankError
from prerank.publish.generation import CURRENT, locate, open_generation
from prerank.service.metrics import Metrics
from prerank.service.refusal import busy
from prerank.service.settings import ServiceConfig
from prerank.service.warm_up import warm_up
from prerank.serving.preranker import PreRanker

RETRY = 30.0  # seconds until a load that failed for want of memory or files is tried again

log = logging.getLogger(__name__)


class Live:
    """Watches a published directory from a thread of its own.

    A request asks once for the ranker and keeps it, so that one generation answers all of it; the replaced generation
    goes when the last such request is done. A generation that fails its checks or its warm-up is not served, and the
    one before it goes on.
    """

    def __init__(self, directory: Path, config: ServiceConfig, metrics: Metrics) -> None:
        self.directory = directory
        self.config = config
        self.metrics = metrics
        self.draining = False
        self._ranker: PreRanker | None = None
        self._tried: object = object()  # of CURRENT, when it was last tried: not yet
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def generation(self) -> str | None:
        """The name of what is served; None while starting."""
        return self._ranker.generation.name if self._ranker else None

    def ranker(self) -> PreRanker:
        """What answers a request that begins now.

        Raises:
            RefusedError: nothing is loaded yet.
        """
        if self._ranker is None:
            raise busy(HTTPStatus.SERVICE_UNAVAILABLE, "the service is starting; come again", 1)
        return self._ranker

    def begin(self, failed: Callable[[Exception], None]) -> None:
        """Load, and from then on look for newer generations.

        Args:
            failed: told, from the thread, if there is nothing to begin with.
        """
        self._thread = threading.Thread(target=self._run, args=(failed,), name="generations", daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """Ask for no more requests; those that come are answered all the same."""
        self.draining = True
        self.metrics.ready.set(0)

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=1)

    def look(self) -> bool:
        """Load what CURRENT names if that has changed; whether it is served now."""
        seen = self._seen()
        if seen == self._tried:
            return False
        self._tried = seen
        try:
            place = locate(self.directory)
            if place.name == self.generation:
                return False
            self._serve(place)
        except PrerankError as error:
            self._refused(error)
            return False
        except Exception as error:  # whatever a damaged generation can do, the old one goes on
            if isinstance(error, OSError | MemoryError):
                threading.Timer(RETRY, self._forget).start()
            self._refused(error)
            return False
        return True

    def _run(self, failed: Callable[[Exception], None]) -> None:
        try:
            self._tried = self._seen()
            self._serve(locate(self.directory))
        except Exception as error:
            failed(error)
            return
        while not self._stop.wait(self.config.watch_seconds):
            self.look()

    def _serve(self, place: Path) -> None:
        generation = open_generation(place, preload=self.config.preload)
        warm_up(generation)
        self._ranker = PreRanker(generation)
        self.metrics.loads.labels("loaded").inc()
        self.metrics.serves(generation.name, generation.bundle.name, len(generation.store))
        self.metrics.ready.set(0 if self.draining else 1)
        log.info("serving generation %s", generation.name)

    def _refused(self, error: Exception) -> None:
        self.metrics.loads.labels("refused").inc()
        what = str(error) if isinstance(error, PrerankError) else f"{type(error).__name__}: {error}"
        log.error("a generation is refused, %s goes on: %s", self.generation, " ".join(what.split()))

    def _seen(self) -> object:
        """Changes whenever CURRENT is written or replaced."""
        try:
            status = (self.directory / CURRENT).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _forget(self) -> None:
        self._tried = object()
