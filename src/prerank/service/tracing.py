"""Spans of requests by OpenTelemetry, for whoever asks for them; without, nothing is imported and nothing is kept."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from time import perf_counter
from typing import Any

from prerank import __version__
from prerank.errors import ConfigError

SERVICE = "OTEL_SERVICE_NAME"
Headers = Iterable[tuple[bytes, bytes]]
END = 5.0  # seconds for the last spans to leave


class Call:
    """What is told of a request when it is over."""

    def end(self, name: str, status: int | str, generation: str | None) -> None:
        """Tell the name of what was asked for, how it was answered, and the generation that is served."""


class Tracing:
    """No spans."""

    def request(self, protocol: str, headers: Headers) -> AbstractContextManager[Call]:
        """A span around a request, within that of the caller if its headers name one by W3C trace context."""
        del protocol, headers
        return nullcontext(Call())

    def span(self, name: str) -> AbstractContextManager[None]:
        """A span around a part of the request."""
        del name
        return nullcontext()

    def past(self, name: str, begun: float, ended: float) -> None:
        """A part that is over, its times on the clock of ``perf_counter``."""

    def close(self) -> None:
        """Send what is left."""


class OpenTelemetry(Tracing):
    """Spans that are sent away. What a request holds is in none of them."""

    def __init__(self, exporter: Any = None) -> None:
        """Begin.

        Args:
            exporter: of spans; if None, by OTLP over HTTP as the environment variables ``OTEL_…`` say.

        Raises:
            ConfigError: the packages are not installed.
        """
        try:
            trace, sdk, export, resources, propagation = (
                import_module(f"opentelemetry.{name}")
                for name in (
                    "trace",
                    "sdk.trace",
                    "sdk.trace.export",
                    "sdk.resources",
                    "trace.propagation.tracecontext",
                )
            )
            if exporter is None:
                otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
                exporter = otlp.OTLPSpanExporter()
        except ModuleNotFoundError:
            raise ConfigError("tracing: needs more packages; install them with: pip install 'prerank[otel]'") from None
        resource = resources.Resource.create({"service.name": os.environ.get(SERVICE, "prerank")})
        self._api = trace
        self._propagator = propagation.TraceContextTextMapPropagator()
        self._provider = sdk.TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("prerank", __version__)

    @contextmanager
    def request(self, protocol: str, headers: Headers) -> Iterator[Call]:
        """See ``Tracing``."""
        parent = self._propagator.extract({name.decode("latin-1"): value.decode("latin-1") for name, value in headers})
        with self._tracer.start_as_current_span(protocol, parent, kind=self._api.SpanKind.SERVER) as span:
            yield _Traced(span, self._api)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """See ``Tracing``."""
        with self._tracer.start_as_current_span(name, record_exception=False):
            yield

    def past(self, name: str, begun: float, ended: float) -> None:
        """See ``Tracing``."""
        zero = time.time_ns() - int(1e9 * perf_counter())
        span = self._tracer.start_span(name, start_time=zero + int(1e9 * begun))
        span.end(zero + int(1e9 * ended))

    def close(self) -> None:
        """See ``Tracing``; a collector that does not answer is not waited for."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(END)

    def flush(self) -> None:
        """Send what there is."""
        self._provider.force_flush()


class _Traced(Call):
    def __init__(self, span: Any, api: Any) -> None:
        self.span = span
        self.api = api

    def end(self, name: str, status: int | str, generation: str | None) -> None:
        self.span.update_name(name)
        key = "http.response.status_code" if isinstance(status, int) else "rpc.grpc.status_code"
        self.span.set_attribute(key, status)
        if generation is not None:
            self.span.set_attribute("prerank.generation", generation)
        if status in ("INTERNAL", "UNKNOWN") or (isinstance(status, int) and status >= 500):
            self.span.set_status(self.api.Status(self.api.StatusCode.ERROR))
