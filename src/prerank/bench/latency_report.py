"""Latency as a table like FIT's Table 2, and as a figure like IntTower's Fig. 5."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from itertools import cycle, product
from pathlib import Path
from typing import Any

from prerank.bench.latency import MAIN, WAYS
from prerank.errors import PrerankError

MARKERS = "osD^v<>ph*XP"


def markdown(result: Mapping[str, Any]) -> str:
    """Latency and storage of every model at the main setting, and how FIT's grows; without models, the main row."""
    if "rows" not in result:
        lines = ["| way | p50 ms | p90 ms | p99 ms | requests/s |", "|---|---|---|---|---|"]
        for name in WAYS:
            lines.append(f"| {name} | {_times(result[name])} |")
        lines.append(f"| floor of fit | {result['floor_ms']:.2f} | | | |")
        lines += ["", "| ratio | |", "|---|---|"]
        return "\n".join([*lines, *(f"| {name} | {value:.2f} |" for name, value in result["ratios"].items())])
    main = {(row["model"], row["path"]): row for row in result["rows"] if _is(row, **MAIN._asdict())}
    reference, stored = main["two_tower", "plan"], result["models"]["two_tower"]["representation_bytes"]
    lines = [
        "| model | p50 ms | p90 ms | p99 ms | requests/s | x Two-Tower | naive p50 ms | storage |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, facts in result["models"].items():
        row = main[name, "plan"]
        times, share = row["p50_ms"] / reference["p50_ms"], facts["representation_bytes"] / stored
        naive = main[name, "naive"]["p50_ms"]
        lines.append(f"| {name} | {_times(row)} | {times:.1f} | {naive:.2f} | {share:.2f} x |")
    scaling = result["scaling"]
    for of, title in (("candidates", "candidates"), ("queries", "meta queries")):
        curve = sorted((int(number), p50) for number, p50 in scaling[f"{of}_p50_ms"].items())
        lines += ["", f"| {title} | {' | '.join(f'{number:,}' for number, _ in curve)} |"]
        lines += ["|---" * (len(curve) + 1) + "|", f"| fit, p50 ms | {' | '.join(f'{p50:.2f}' for _, p50 in curve)} |"]
    return "\n".join(
        [*lines, "", f"A line explains {scaling['line_explains']:.2f} of how fit's p50 varies with candidates."]
    )


def large_table(result: Mapping[str, Any]) -> str:
    """Latency and encoding of a large catalogue beside those of a small one."""
    small, large = (f"{result['items'][size]:,} items" for size in ("small", "large"))
    lines = [f"| model, histories | {small}: p50 ms | {large}: p50 ms | ratio |", "|---|---|---|---|"]
    for model, kind in product(result["encoded"]["small"], ("", ", unmet")):
        row = result[model]
        times = " | ".join(f"{row[f'{size}{kind}']['p50_ms']:.2f}" for size in ("small", "large"))
        lines.append(f"| {model}{kind or ', met'} | {times} | {row[f'large/small{kind}']:.2f} |")
    lines += ["", "| encoded | items/s | seconds | bytes an item | peak memory |", "|---|---|---|---|---|"]
    for size, title in (("small", small), ("large", large)):
        for model, facts in result["encoded"][size].items():
            numbers = f"{facts['items_per_second']:,.0f} | {facts['seconds']:.0f} | {facts['item_bytes']:.0f}"
            lines.append(f"| {model}, {title} | {numbers} | {facts['peak_gib']:.2f} GiB |")
    return "\n".join(lines)


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Latency against the number of candidates, a line for each model.

    Raises:
        PrerankError: Matplotlib is not installed, or the file is of an unknown kind or cannot be written.
    """
    try:
        figure_module = import_module("matplotlib.figure")
    except ModuleNotFoundError:
        raise PrerankError("--figure: needs Matplotlib; pip install 'prerank[plots]'") from None
    rows = [row for row in result["rows"] if _is(row, history=MAIN.history, threads=MAIN.threads)]
    figure = figure_module.Figure(figsize=(7.5, 5), layout="constrained")
    axes, markers = figure.subplots(), cycle(MARKERS)
    colours = cycle(f"C{number}" for number in range(10))
    ways = [(name, "plan") for name in result["models"]] + [("fit", "naive")]
    curves = {way: [row for row in rows if (row["model"], row["path"]) == way] for way in ways}
    last = {way: max(curve, key=lambda row: row["candidates"])["p50_ms"] for way, curve in curves.items()}
    for name, path in sorted(ways, key=lambda way: -last[way]):  # the legend in the order of the lines
        curve = sorted(curves[name, path], key=lambda row: row["candidates"])
        axes.plot(
            [row["candidates"] for row in curve],
            [row["p50_ms"] for row in curve],
            label=name if path == "plan" else f"{name}, naive",
            marker=next(markers),
            color=next(colours),
            markersize=4,
            linewidth=2.4 if (name, path) == ("fit", "plan") else 1.1,
            linestyle="-" if path == "plan" else "--",
        )
    axes.set(xscale="log", yscale="log", xlabel="candidates", ylabel="p50 of a request, ms")
    axes.set_title(f"{result['items']:,} items, {MAIN.history} behaviours, one thread", fontsize=10)
    axes.grid(visible=True, which="major", linewidth=0.4)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise PrerankError(f"--figure {file}: {error}") from None


def _times(row: Mapping[str, Any]) -> str:
    return " | ".join([*(f"{row[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms")), f"{row['per_second']:,.0f}"])


def _is(row: Mapping[str, Any], **values: int) -> bool:
    return all(row[name] == value for name, value in values.items())
