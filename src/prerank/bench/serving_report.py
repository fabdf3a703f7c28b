"""What the study of the service and its soak found, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WAYS = {
    "in_process": "in process",
    "http_binary": "open protocol, binary",
    "http_json": "JSON",
}


def markdown(result: Mapping[str, Any]) -> str:
    """The table of one part of the study, or of a soak."""
    if "bad_served" in result:
        return _soak(result)
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


def _soak(result: Mapping[str, Any]) -> str:
    steady, during = (result["milliseconds"][name] for name in ("steady", "during_swaps"))
    zero = " / ".join(str(result[name]) for name in ("failed", "wrong", "bad_served", "half_sent_lost"))
    memory = " / ".join(f"{size:.0f}" for size in list(result["megabytes_after_swap"].values())[-2:])
    files = list(result["open_files_after_swap"].values())
    workers = result["workers"]
    rows = [
        ["requests", str(result["requests"])],
        ["failed / wrong / bad generations served / lost at SIGTERM", zero],
        ["p50, p99 ms without a swap", f"{steady['p50']:.1f}, {steady['p99']:.1f}"],
        ["p50, p99 ms while one is going on", f"{during['p50']:.1f}, {during['p99']:.1f}"],
        ["the one p99 over the other", f"{during['p99'] / steady['p99']:.1f}"],
        ["seconds of a swap", f"{result['swap_seconds']:.2f}"],
        ["MiB after the 20th swap / the last", memory],
        ["open files after the first swap / the last", f"{files[0]} / {files[-1]}"],
    ]
    kind = f"{workers} worker{'s' if workers > 1 else ''}, {result['swaps']} swaps"
    return _table([kind, ""], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
