"""What the study of the service found, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WAYS = {
    "in_process": "in process",
    "http_binary": "open protocol, binary",
    "http_json": "JSON",
}


def markdown(result: Mapping[str, Any]) -> str:
    """The table of one part of the study."""
    if "added_p50_ms" in result:
        return _overhead(result)
    return _saturation(result) if "rows" in result else _overload(result)


def _overhead(result: Mapping[str, Any]) -> str:
    rows = []
    for name, title in WAYS.items():
        times, added = result["milliseconds"][name], result["added_p50_ms"].get(name)
        cells = [f"{times[share]:.2f}" for share in ("p50", "p90", "p99")]
        rows.append([title, *cells, "" if added is None else f"{added:.2f}"])
    return _table(["one request of 2,000 candidates", "p50 ms", "p90 ms", "p99 ms", "added to p50"], rows)


def _saturation(result: Mapping[str, Any]) -> str:
    rows = []
    for row in result["rows"]:
        part = row["at_share"]["latency_ms"]
        cells = [f"{row['saturation']['answers_per_second']:.0f}", f"{part['p50']:.1f}", f"{part['p99']:.1f}"]
        rows.append([row["service"], str(row["workers"]), row["payload"], *cells])
    share = f"at {100 * result['share']:.0f} %"
    return _table(["service", "workers", "payload", "answers/s", f"p50 ms {share}", f"p99 ms {share}"], rows)


def _overload(result: Mapping[str, Any]) -> str:
    over = result["overload"]
    recovered = result["recovery_seconds"]
    rows = [
        ["saturation, answers/s", f"{result['saturation_per_second']:.0f}"],
        ["due in a second", f"{result['asked_per_second']:.0f}"],
        ["answered in a second (goodput)", f"{result['goodput_per_second']:.0f}"],
        ["goodput / saturation", f"{result['goodput_share']:.2f}"],
        ["refusals, p50 / p99 ms", f"{over['refusal_ms']['p50']:.1f} / {over['refusal_ms']['p99']:.1f}"],
        ["answers, p50 / p99 ms", f"{over['latency_ms']['p50']:.0f} / {over['latency_ms']['p99']:.0f}"],
        ["recovered after, s", "not within 10" if recovered is None else f"{recovered:.2f}"],
        ["memory grew by, MiB", f"{result['memory_growth_mib']:.0f}"],
    ]
    return _table([f"{result['overload_seconds']:.0f} s of three times too many", ""], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
