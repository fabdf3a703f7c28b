"""The generation that is served: the newest good one, replaced while requests are answered."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from http import HTTPStatus
from math import inf
from pathlib import Path
from time import monotonic

from prerank.errors import PrerankError
from prerank.publish.generation import CURRENT, GENERATIONS, locate, open_generation
from prerank.service.group.members import Worker
from prerank.service.metrics import Metrics
from prerank.service.pace import paced
from prerank.service.refusal import busy
from prerank.service.settings import ServiceConfig
from prerank.service.shared_rows import SharedRows
from prerank.service.warm_up import warm_up
from prerank.serving.preranker import PreRanker

LONGEST = 500  # of CURRENT, in bytes, and of a reason, in characters
REMEMBERED = 20  # refused generations
NICE = 10  # of the thread that loads, and of those that it starts
RETRY = 30.0  # seconds until a load that failed for want of memory or files is tried again

log = logging.getLogger(__name__)


class Live:
    """Watches a published directory from a thread of its own.

    A request asks once for the ranker and keeps it, so that one generation answers all of it; the replaced generation
    goes when the last such request is done. A generation that fails its checks or its warm-up is not served, and the
    one before it goes on.

    Attributes:
        refused: generations that were refused last, and why.
        changed: called, from any thread, when anything of this has changed.
    """

    def __init__(
        self,
        directory: Path,
        config: ServiceConfig,
        metrics: Metrics,
        fallback: str | None = None,
        shared: SharedRows | None = None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            directory: what ``prerank publish`` has written.
            config: the operator's settings.
            metrics: to count in.
            fallback: the generation to begin with if the current one is refused: what other workers serve.
            shared: where the candidates' rows come from; the store itself if None.
        """
        self.directory = directory
        self.config = config
        self.metrics = metrics
        self.fallback = fallback
        self.shared = shared
        self.refused: dict[str, str] = {}
        self.changed: Callable[[], None] = lambda: None
        self.draining = False
        self._ranker: PreRanker | None = None
        self._tried: object = object()  # of CURRENT, when it was last tried: not yet
        self._again = inf  # when it is tried again though nothing was written
        self._stopped = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def ready(self) -> bool:
        """Whether requests are welcome."""
        return self._ranker is not None and not self.draining

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
        self.changed()

    def close(self) -> None:
        """Stop watching."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=1)

    def look_now(self) -> None:
        """Have the thread look again, also at what it has refused."""
        self._tried = object()
        self._wake.set()

    def state(self) -> Worker:
        """How this process is."""
        loaded = self._ranker.generation if self._ranker else None
        return Worker(
            worker=0,
            pid=os.getpid(),
            state="draining" if self.draining else "ready" if loaded else "starting",
            generation=loaded.name if loaded else None,
            model=loaded.bundle.name if loaded else "",
            items=len(loaded.store) if loaded else 0,
            refused=dict(self.refused),
        )

    def look(self) -> bool:
        """Load what CURRENT names if that has changed; whether it is served now."""
        seen = self._seen()
        if seen == self._tried and monotonic() < self._again:
            return False
        self._tried, self._again = seen, inf
        try:
            place = locate(self.directory)
            if place.name == self.generation:
                return False
            self._serve(place)
        except Exception as error:  # whatever a damaged generation can do, the old one goes on
            if _may_pass(error) or _may_pass(error.__context__):
                self._again = monotonic() + RETRY
            self._refused(error)
            return False
        return True

    def _run(self, failed: Callable[[Exception], None]) -> None:
        try:
            self._begin()
        except Exception as error:
            failed(error)
            return
        # From now on loading takes time from requests that are being answered: others have the cores first, and what
        # is there already is not looked through again for garbage, during which all threads would wait.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        gc.collect()
        gc.freeze()
        while not self._stopped:
            self.look()
            self._wake.wait(self.config.watch_seconds)
            self._wake.clear()

    def _begin(self) -> None:
        self._tried = self._seen()
        try:
            self._serve(locate(self.directory))
        except Exception as error:
            if self.fallback is None:
                raise
            self._refused(error)
            self._serve(self.directory / GENERATIONS / self.fallback)

    def _serve(self, place: Path) -> None:
        with paced() if self._ranker else nullcontext():  # while requests are answered
            # with a shared store, the local one is for emergencies, and its rows need not be in memory
            generation = open_generation(place, preload=self.config.preload and self.shared is None)
            warm_up(generation)
        if self.shared is not None:
            self.shared.serve(generation.store)
        self._ranker = PreRanker(generation, self.shared)
        self.refused = {name: why for name, why in self.refused.items() if name != generation.name}
        self.metrics.loads.labels("loaded").inc()
        log.info("serving generation %s", generation.name)
        self.changed()

    def _refused(self, error: Exception) -> None:
        self.metrics.loads.labels("refused").inc()
        what = str(error) if isinstance(error, PrerankError) else f"{type(error).__name__}: {error}"
        what = " ".join(what.split())
        self.refused = dict([*self.refused.items(), (self._named(), what[:LONGEST])][-REMEMBERED:])
        log.error("a generation is refused, %s goes on: %s", self.generation or self.fallback, what)
        self.changed()

    def _seen(self) -> tuple[bytes, int, int]:
        """Another value whenever CURRENT says something else, or is written again.

        Its times and its inode may be those of a file before it, so that its text is what counts.
        """
        try:
            with (self.directory / CURRENT).open("rb") as file:
                status = os.fstat(file.fileno())
                return file.read(LONGEST), status.st_ino, status.st_mtime_ns
        except OSError:
            return b"", 0, 0

    def _named(self) -> str:
        """What CURRENT names, which need not be a generation."""
        return self._seen()[0][:64].decode("ascii", "replace").strip() or CURRENT


def _may_pass(error: BaseException | None) -> bool:
    """Whether memory or file handles were short, or a disk did not answer; a file that is missing stays so."""
    return isinstance(error, OSError | MemoryError) and not isinstance(error, FileNotFoundError)
