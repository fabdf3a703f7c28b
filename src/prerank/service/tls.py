"""TLS, from an operator's files."""

from __future__ import annotations

import ssl

from prerank.errors import ConfigError
from prerank.service.settings import TlsConfig


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
