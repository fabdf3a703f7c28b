"""TLS, from an operator's files, which may be renewed while the service runs."""

from __future__ import annotations

import logging
import ssl
import threading
from pathlib import Path
from typing import NamedTuple

from prerank.errors import ConfigError
from prerank.service.settings import TlsConfig

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """The files, as they were read at one time.

    Attributes:
        context: what connections are made with.
        pair: the key and the chain, in PEM form.
        client_ca: in PEM form, if clients need a certificate.
    """

    context: ssl.SSLContext
    pair: tuple[bytes, bytes]
    client_ca: bytes | None


class Certificates:
    """What connections are made with, by the files as they are when one is made."""

    def __init__(self, certificate: Path, config: TlsConfig) -> None:
        self._certificate = certificate
        self._config = config
        self._lock = threading.Lock()  # gRPC asks from a thread of its own
        self._seen = self._state()
        self._loaded = self._load()

    def current(self) -> Loaded:
        """For a new connection. Files that have changed are read again; those that cannot be used, once, in vain."""
        with self._lock:
            if (state := self._state()) != self._seen:
                self._seen = state  # of before they are read: the next connection sees what is written meanwhile
                try:
                    self._loaded = self._load()
                    log.info("changed certificates are used: tls.certificate %s", self._certificate)
                except ConfigError as error:
                    log.error("changed certificates are not used, those before are: %s", error)
            return self._loaded

    def _load(self) -> Loaded:
        # A context of its own each time: one that was given half of a pair, or had another authority, is of no use.
        context = _context(self._certificate, self._config)
        key, client_ca = self._config.key or self._certificate, self._config.client_ca
        try:
            pair = key.read_bytes(), self._certificate.read_bytes()
            return Loaded(context, pair, client_ca.read_bytes() if client_ca else None)
        except OSError as error:  # gone since
            raise ConfigError(f"tls: {error.filename}: {error.strerror}") from None

    def _state(self) -> list[tuple[int, ...] | None]:
        return [_state(file) for file in (self._certificate, self._config.key, self._config.client_ca) if file]


def certificates(config: TlsConfig) -> Certificates | None:
    """What connections are made with; None for plain ones.

    TLS 1.2 or later. With a client CA, only those come in who show a certificate of it.

    Raises:
        ConfigError: a file is missing, is not what it should be, or does not fit the others.
    """
    if config.certificate is None:
        if config.key is not None or config.client_ca is not None:
            raise ConfigError("tls.certificate: is missing beside tls.key or tls.client_ca")
        return None
    return Certificates(config.certificate, config)


def _context(certificate: Path, config: TlsConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files = f"tls.certificate {certificate}" + (f", tls.key {config.key}" if config.key else "")
    try:
        context.load_cert_chain(certificate, config.key, _no_password)
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


def _state(file: Path) -> tuple[int, ...] | None:
    """What tells that it was written, replaced or given other rights."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size


def _no_password() -> str:
    """Instead of a question on the terminal that nobody answers."""
    raise ValueError("the key is encrypted; give one that is not")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").replace("_", " ").lower()
    return getattr(error, "strerror", None) or str(error)
