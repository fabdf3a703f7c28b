"""prerank serve."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from prerank.cli import console
from prerank.config import override, parse, read_yaml
from prerank.errors import ConfigError

NEEDED = ("starlette", "uvicorn", "uvloop", "httptools", "msgspec", "prometheus_client")
"""The packages of the extra."""


def serve(
    directory: Annotated[Path, typer.Argument(help="a directory of published generations")],
    host: Annotated[str | None, typer.Option("--host", help="where to listen; 127.0.0.1 unless told")] = None,
    port: Annotated[int | None, typer.Option("--port", help="8000 unless told; 0: any free one")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML of settings, see docs/serving.md")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="change a setting: key=value")] = None,
) -> None:
    """Answer requests over HTTP (and gRPC, see docs/serving.md), and follow new generations, until SIGTERM or Ctrl-C.

    Example: prerank serve published --port 8000 --set queue=128
    """
    if any(find_spec(module) is None for module in NEEDED):
        raise ConfigError("prerank serve: needs more packages; install them with: pip install 'prerank[serve]'")
    from prerank.service.logs import log_to_stderr  # noqa: PLC0415  # of the packages of an extra
    from prerank.service.serve import serve as run  # noqa: PLC0415
    from prerank.service.settings import ServiceConfig  # noqa: PLC0415

    values: dict[str, Any] = override(read_yaml(config) if config else {}, changes or [])
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = parse(ServiceConfig, {**values, **given}, str(config or "serve"))
    if settings.grpc_port is not None and any(find_spec(module) is None for module in ("grpc", "google.protobuf")):
        raise ConfigError("grpc_port: needs more packages; install them with: pip install 'prerank[grpc]'")
    log_to_stderr()
    run(directory, settings, lambda address: console.out.print(f"listening at {address}"))
