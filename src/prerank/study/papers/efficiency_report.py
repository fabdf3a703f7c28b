"""A study of costs as Markdown and as a figure, from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

from prerank.study.figures import INK, PALETTE
from prerank.study.papers.table import footer_lines, line

MARKERS = "osD^v<>ph"
NAMES = {
    "epoch_seconds": "seconds an epoch",
    "served": "p50 of a request, ms",
    "naive": "p50 without a plan, ms",
    "representation_bytes": "stored an item, bytes",
    "user_parameters": "parameters of the user's side",
}


def cost_table(result: Mapping[str, Any]) -> str:
    """The costs of the rows, the paper's beside them; multiples of the base row, since machines differ."""
    rows, paper, base = result["rows"], result["paper"], result["base"]
    printed: Mapping[str, Any] = paper["rows"] if paper else {}
    heads, columns = [""], []
    for name in _names(result):
        values = {row: _value(of_row, name) for row, of_row in rows.items()}
        key = _published(name)
        theirs = {row: of_row[key] for row, of_row in printed.items() if key in of_row}
        heads += [_heading(name), "x"]
        columns += [_amounts(values, name), _multiples(values, values.get(base))]
        if theirs:
            heads += [*([] if key == "storage" else ["paper"]), "paper x"]
            columns += [] if key == "storage" else [_amounts(theirs, name)]
            columns += [_multiples(theirs, theirs.get(base))]
    lines = [line(heads), "|---" * len(heads) + "|"]
    lines += [line([row["title"], *(column.get(name, "") for column in columns)]) for name, row in rows.items()]
    how = result["measured"]
    said = f"Histories of {how['history']}, {how['items']:,} items, random weights, {how['threads']} thread"
    return "\n".join([*lines, "", *footer_lines(result, said)]) + "\n"


def draw_bars(axes: Any, result: Mapping[str, Any], metric: str) -> None:
    """A bar a row, with its number."""
    rows = result["rows"]
    values = [_value(row, metric) for row in rows.values()]
    bars = axes.barh(range(len(rows)), values, color=PALETTE[5], height=0.6)
    axes.bar_label(bars, labels=[_amount(value, metric) for value in values], padding=3, fontsize=8, color=INK)
    axes.set_yticks(range(len(rows)), [row["title"] for row in rows.values()])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.22 * max(values))
    axes.set_xlabel(NAMES[metric])


def draw_over(axes: Any, result: Mapping[str, Any], metric: str) -> None:
    """A cost over ``x``."""
    rows = sorted(result["rows"].values(), key=lambda row: row["x"])
    places = [row["x"] for row in rows]
    axes.plot(places, [_value(row, metric) for row in rows], color=PALETTE[5], marker="o", markersize=5)
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.set_ylim(0)
    axes.set(xlabel=result["figure"]["x"], ylabel=NAMES[metric])


def draw_candidates(axes: Any, result: Mapping[str, Any], metric: str) -> None:
    """Latency over the number of candidates, a line a row."""
    for row, colour, marker in zip(result["rows"].values(), cycle(PALETTE), cycle(MARKERS), strict=False):
        curve = {int(count): times[metric]["p50_ms"] for count, times in row["latency"].items()}
        axes.plot(curve.keys(), curve.values(), color=colour, marker=marker, markersize=4, label=row["title"])
    axes.set(xscale="log", yscale="log", xlabel="candidates", ylabel=NAMES[metric])
    axes.set_xticks(counts := sorted(curve), [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")


def _names(result: Mapping[str, Any]) -> list[str]:
    """Quantities of the table, latencies with their number of candidates."""
    first = next(iter(result["rows"].values()))
    counts = list(first["latency"])
    if len(counts) > 1:
        return [f"served, {int(count):,} candidates" for count in counts]
    timed = ["epoch_seconds"] if first["epoch_seconds"] else []
    return [*timed, "served", "naive", "representation_bytes", "user_parameters"]


def _heading(name: str) -> str:
    first, comma, rest = name.partition(", ")
    return f"{NAMES[first]}{comma}{rest}"


def _value(row: Mapping[str, Any], name: str) -> Any:
    first, _, rest = name.partition(", ")
    if first in ("served", "naive"):
        count = rest.split()[0].replace(",", "") if rest else next(iter(row["latency"]))
        return row["latency"][count][first]["p50_ms"]
    return row[name]


def _published(name: str) -> str:
    theirs = {"served": "latency_ms", "user_parameters": "parameters", "representation_bytes": "storage"}
    return theirs.get(name, name)


def _amounts(values: Mapping[str, float], name: str) -> dict[str, str]:
    return {row: _amount(value, name) for row, value in values.items()}


def _amount(value: float, name: str) -> str:
    if name in ("user_parameters", "representation_bytes"):
        return f"{value:,.0f}"
    return f"{value:.0f}" if name == "epoch_seconds" and value >= 10 else f"{value:.3g}"


def _multiples(values: Mapping[str, float], base: float | None) -> dict[str, str]:
    return {row: f"{value / base:.2f}" for row, value in values.items()} if base else {}
