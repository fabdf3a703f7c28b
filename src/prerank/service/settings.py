"""What an operator sets: where to listen, how much to take on, how long to wait."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from prerank.config import Strict
from prerank.errors import ConfigError

TOKEN, ADMIN_TOKEN = "PRERANK_TOKEN", "PRERANK_ADMIN_TOKEN"
"""The environment variables that bearer tokens are read from where no file is named."""

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Limits(Strict):
    """What a single request may ask for; anything beyond it is refused by name."""

    body_bytes: Count = 8 << 20
    head_bytes: Annotated[int, Field(ge=1024)] = 16 << 10
    candidates: Count = 10_000
    history: Count = 10_000
    columns: Count = 32
    pairs: Count = 32
    batch: Annotated[int, Field(ge=1, description="requests of one rank:batch")] = 64
    head_seconds: Annotated[Seconds, Field(description="for request line and headers to arrive")] = 10
    body_seconds: Annotated[Seconds, Field(description="for the body to arrive")] = 10


class AdminConfig(Strict):
    """The operator's API."""

    host: str = "127.0.0.1"
    port: Annotated[int | None, Field(ge=0, le=65535, description="of the admin API; 0: any free one")] = None
    token_file: Annotated[Path | None, Field(description="holds its own token")] = None


class TlsConfig(Strict):
    """Files in PEM form."""

    certificate: Annotated[Path | None, Field(description="turns TLS on: the chain, own certificate first")] = None
    key: Annotated[Path | None, Field(description="if it is not in that file")] = None
    client_ca: Annotated[Path | None, Field(description="clients need a certificate of one of these")] = None


class ServiceConfig(Strict):
    """The service."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="0: any free one")] = 8000
    grpc_port: Annotated[
        int | None, Field(ge=0, le=65535, description="of the open protocol over gRPC; 0: any free one")
    ] = None
    name: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]+$", description="of the model in the open protocol")] = (
        "prerank"
    )
    token_file: Annotated[Path | None, Field(description="holds the bearer token")] = None
    workers: Annotated[int, Field(ge=1, le=256, description="processes that answer")] = 1
    threads: Annotated[int, Field(ge=1, description="of each worker that score, one request each")] = 1
    queue: Annotated[int, Field(ge=0, description="requests that may wait for a thread, in each worker")] = 64
    deadline_ms: Annotated[Seconds, Field(description="of a request that names none")] = 1000
    longest_deadline_ms: Seconds = 60_000
    connections: Annotated[Count, Field(description="of each worker")] = 1000
    buffer_bytes: Annotated[int, Field(ge=1, description="of all bodies that are arriving at a worker")] = 256 << 20
    keep_alive_seconds: Count = 75
    preload: Annotated[bool, Field(description="read the whole item store before serving it")] = True
    redis: Annotated[str | None, Field(description="URL of a server with the item rows, too")] = None
    redis_timeout_ms: Annotated[Seconds, Field(description="that a request waits for rows from there")] = 20
    watch_seconds: Annotated[Seconds, Field(description="between looks for a new generation")] = 1
    drain_seconds: Annotated[float, Field(ge=0, description="from SIGTERM, not ready, to no new connections")] = 1
    grace_seconds: Annotated[int, Field(ge=1, description="for requests in flight after that")] = 30
    tracing: Annotated[bool, Field(description="spans of requests by OpenTelemetry")] = False
    access_log: Annotated[bool, Field(description="a log line for every request")] = False
    tls: TlsConfig = TlsConfig()
    admin: AdminConfig = AdminConfig()
    sample: Annotated[float, Field(ge=0, le=1, description="share of answered requests that are written down")] = 0
    sample_dir: Annotated[Path | None, Field(description="where to; holds what users sent")] = None
    sample_file_bytes: Annotated[int, Field(ge=1, description="of one file of the sample")] = 64 << 20
    sample_files: Annotated[int, Field(ge=1, description="that are kept; the oldest go")] = 16
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _sample_has_a_place(self) -> Self:
        if self.sample and self.sample_dir is None:
            raise ValueError("sample_dir: is needed with sample: the directory that requests are written to")
        return self


def address_of(host: str, port: int) -> str:
    """Both in one text, as addresses are written."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read_token(config: ServiceConfig) -> bytes | None:
    """The bearer token that requests have to show, or None if there is none.

    Raises:
        ConfigError: the file cannot be read, or the token is empty or has characters that a header cannot carry.
    """
    return _read(config.token_file, "token_file", TOKEN)


def read_admin_token(config: ServiceConfig, token: bytes | None) -> bytes | None:
    """The bearer token of the admin API, or None if that is off.

    Raises:
        ConfigError: there is none, it cannot be read, or it is the service's ``token``, too.
    """
    if config.admin.port is None:
        return None
    own = _read(config.admin.token_file, "admin.token_file", ADMIN_TOKEN)
    if own is None:
        raise ConfigError(f"admin.port: needs a token, from admin.token_file or the environment variable {ADMIN_TOKEN}")
    if own == token:
        raise ConfigError("admin.token_file: needs another one than the service's token")
    return own


def _read(file: Path | None, setting: str, variable: str) -> bytes | None:
    if file is not None:
        place = f"{setting} {file}"
        try:
            token = file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"{place}: cannot be read as a file of ASCII text") from None
    elif variable in os.environ:
        place, token = f"environment variable {variable}", os.environ[variable].strip()
    else:
        return None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{place}: a token is one word of printable ASCII characters")
    return token.encode()
