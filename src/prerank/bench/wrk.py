"""wrk, a load generator that others wrote, as a witness: https://github.com/wg/wrk (apt install wrk)."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
SCRIPT = """
local bodies = {{}}
for number = 1, {count} do
  local file = assert(io.open("{folder}/" .. number, "rb"))
  bodies[number] = file:read("*a")
  file:close()
end
local next = 0
request = function()
  next = next % {count} + 1
  return bodies[next]
end
"""


def wrk(
    url: str, requests: Sequence[bytes], seconds: float, connections: int, directory: Path
) -> dict[str, Any] | None:
    """What wrk measures with the same requests, one after the other on each connection.

    Args:
        url: of the service.
        requests: whole HTTP requests.
        seconds: of the measurement.
        connections: that are used.
        directory: an empty one, for the requests and wrk's script.

    Returns:
        ``answers_per_second``, ``latency_ms`` (p50, p90, p99) and ``errors``; None if there is no wrk.

    Raises:
        ChildProcessError: wrk says what nobody expects.
    """
    program = shutil.which("wrk")
    if program is None:
        return None
    directory.mkdir()
    for number, request in enumerate(requests, start=1):
        (directory / str(number)).write_bytes(request)
    script = directory / "script.lua"
    script.write_text(SCRIPT.format(count=len(requests), folder=directory.resolve()), encoding="utf-8")
    options = ["--threads", "1", "--connections", str(connections), "--duration", f"{round(seconds)}s"]
    done = subprocess.run(
        [program, *options, "--latency", "--script", str(script), url], capture_output=True, text=True, check=False
    )
    return read(done.stdout)


def read(text: str) -> dict[str, Any]:
    """What wrk printed.

    Raises:
        ChildProcessError: it is not what it prints.
    """
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    quantiles = dict(re.findall(r"^ +(50|90|99)% +(\S+) *$", text, re.MULTILINE))
    if rate is None or len(quantiles) != 3:
        raise ChildProcessError(f"wrk: {' '.join(text.split()) or 'said nothing'}")
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return {
        "answers_per_second": round(float(rate[1]), 1),
        "latency_ms": {f"p{share}": round(_milliseconds(value), 3) for share, value in quantiles.items()},
        "errors": int(errors[1]) if errors else 0,
    }


def _milliseconds(text: str) -> float:
    number = re.fullmatch(r"([\d.]+)(us|ms|s)", text)
    if number is None:
        raise ChildProcessError(f"wrk: {text!r} is no time")
    return float(number[1]) * UNITS[number[2]]
