"""TLS, from an operator's files, which may be renewed while the service runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prerank.errors import ConfigError
from prerank.service.settings import TlsConfig

LOOK = 1.0  # seconds between looks at the files

log = logging.getLogger(__name__)


class Files:
    """Certificate and key, as they were when somebody last asked."""

    def __init__(self, config: TlsConfig) -> None:
        self.config = config
        self._seen = self._stamps()

    def renewed(self) -> bool:
        """Whether they are others now, and can be used; what cannot be used is told to the log, once."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self._seen = stamps
        try:
            server_context(self.config)
        except ConfigError as error:
            log.error("the certificate is not renewed, the one before goes on: %s", error)
            return False
        log.info("new connections get the renewed certificate %s", self.config.certificate)
        return True

    def _stamps(self) -> list[tuple[int, ...] | None]:
        """Others whenever a file is written or replaced, or a link leads elsewhere."""
        stamps: list[tuple[int, ...] | None] = []
        for path in (self.config.certificate, self.config.key):
            stamps.append(None)
            with contextlib.suppress(OSError):
                if path is not None:
                    status = path.stat()
                    stamps[-1] = (status.st_ino, status.st_mtime_ns, status.st_size)
        return stamps


@asynccontextmanager
async def renewing(context: ssl.SSLContext | None, config: TlsConfig) -> AsyncIterator[None]:
    """Keep a context's certificate that of the files; connections that are open keep theirs.

    The clients' CA stays as it was: a context can only be told of more of them.
    """
    task = asyncio.create_task(_renew(context, config)) if context is not None else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


async def _renew(context: ssl.SSLContext, config: TlsConfig) -> None:
    assert config.certificate is not None
    files = Files(config)
    while True:
        await asyncio.sleep(LOOK)
        if files.renewed():
            with contextlib.suppress(OSError, ValueError):  # written once more since: then the next look sees it
                context.load_cert_chain(config.certificate, config.key, _no_password)


def server_context(config: TlsConfig) -> ssl.SSLContext | None:
    """What connections are made with; None for plain ones.

    TLS 1.2 or later. With a client CA, only those come in who show a certificate of it.

    Raises:
        ConfigError: a file is missing, is not what it should be, or does not fit the others.
    """
    if config.certificate is None:
        if config.key is not None or config.client_ca is not None:
            raise ConfigError("tls.certificate: is missing beside tls.key or tls.client_ca")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files = f"tls.certificate {config.certificate}" + (f", tls.key {config.key}" if config.key else "")
    try:
        context.load_cert_chain(config.certificate, config.key, _no_password)
    except FileNotFoundError:
        raise ConfigError(f"{files}: no such file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{files}: cannot be used: {_reason(error)}") from None
    if config.client_ca is not None:
        try:
            context.load_verify_locations(config.client_ca)
        except OSError as error:
            raise ConfigError(f"tls.client_ca {config.client_ca}: cannot be used: {_reason(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_password() -> str:
    """Instead of a question on the terminal that nobody answers."""
    raise ValueError("the key is encrypted; give one that is not")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").replace("_", " ").lower()
    return getattr(error, "strerror", None) or str(error)
