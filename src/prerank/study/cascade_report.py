"""A simulated cascade as two tables and as a figure of quality against time and storage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prerank.errors import PrerankError
from prerank.study.cascade import UNRANKED
from prerank.study.figures import require

MARKERS = "osD^vpPh"
Result = Mapping[str, Any]


def markdown(result: Result) -> str:
    """What is kept of the judge's choice and what that costs; then whose next event is shown, by cut-off."""
    top, least = _middle(result["top"]), result["top"][0]
    cuts, judge = [str(cut) for cut in result["cut"]], result["judge"]
    recalls = " | ".join(f"top {top} in {cut}" for cut in cuts)
    lines = [
        f"| pre-ranker | test AUC | {recalls} | NDCG@{least} | p50 ms | bytes an item |",
        "|---" * (len(cuts) + 5) + "|",
    ]
    for name, row in result["cascade"].items():
        kept = " | ".join(_share(row["recall"][str(top)][cut]) for cut in cuts)
        auc, costs = "-", "| - | - |"
        if "time" in row:
            auc, costs = f"{row['test_auc']:.4f}", f"| {row['time']['p50_ms']:.2f} | {row['bytes_per_item']:,.0f} |"
        lines.append(f"| {_title(name, judge)} | {auc} | {kept} | {_share(row['ndcg'][str(least)])} {costs}")
    through = " | ".join(f"in {cut}" for cut in cuts)
    hits = " | ".join(f"shown, of {cut}" for cut in cuts)
    lines += ["", f"| pre-ranker | {through} | {hits} |", "|---" * (2 * len(cuts) + 1) + "|"]
    for name, row in result["cascade"].items():
        through = " | ".join(_share(row["let_through"][cut]) for cut in cuts)
        rates, lost = row["hit_rate"][str(top)], row["hit_rate_lost"][str(top)]
        hits = " | ".join(f"{rates[cut]['mean']:.3f}" + _lost(lost[cut] if name != judge else None) for cut in cuts)
        lines.append(f"| {_title(name, judge)} | {through} | {hits} |")
    ranking = ", ".join(f"{times['p50_ms']:.1f} ms for {cut}" for cut, times in result["ranking"].items())
    lines += ["", f"p50 of {judge} as the ranker: {ranking} candidates."]
    return "\n".join(lines) + "\n"


def draw(result: Result, file: Path) -> None:
    """Quality against time: a mark for each model, as large as what it stores of an item.

    Raises:
        PrerankError: Matplotlib is not installed, or the file is of an unknown kind or cannot be written.
    """
    top, cut = str(_middle(result["top"])), str(_middle(result["cut"]))
    rows = {name: row for name, row in result["cascade"].items() if "time" in row and name != result["judge"]}
    figure = require("matplotlib.figure").Figure(figsize=(8.5, 4.6), layout="constrained")
    axes = figure.subplots()
    points = {name: (row["time"]["p50_ms"], row["recall"][top][cut]["mean"]) for name, row in rows.items()}
    front = pareto(points)
    axes.plot(*zip(*(points[name] for name in front), strict=True), color="#707070", linewidth=1, linestyle="--")
    best_first = sorted(rows, key=lambda name: -points[name][1])  # the legend in the order of the discs
    for number, name in enumerate(best_first):
        (time, quality), stored = points[name], rows[name]["bytes_per_item"]
        look = {"color": f"C{number % 10}", "marker": MARKERS[number % len(MARKERS)]}
        error = rows[name]["recall"][top][cut]["se"]
        axes.errorbar(time, quality, yerr=error, linewidth=1, capsize=2, markersize=0, **look)
        face = {"facecolor": (look["color"], 0.25), "edgecolor": look["color"], "marker": look["marker"]}
        axes.scatter(time, quality, s=stored / 3, label=f"{name}, {stored:,.0f} bytes", **face)
    unranked = result["cascade"][UNRANKED]["recall"][top][cut]["mean"]
    axes.axhline(unranked, color="#707070", linewidth=0.8, linestyle=":")
    axes.annotate(
        UNRANKED,
        (1, unranked),
        (-4, 4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )
    axes.set(xscale="log", xlabel=f"p50 of an answer for {result['candidates']:,} candidates, ms, one thread")
    axes.set_ylabel(f"share of {result['judge']}'s top {top} among the best {cut}")
    ticker = require("matplotlib.ticker")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.margins(x=0.15, y=0.1)
    legend = figure.legend(loc="outside right upper", frameon=False, fontsize=8, title="an item's row")
    for handle in legend.legend_handles:
        handle.set_sizes([50])  # of an item of a few kilobytes it would cover its neighbours
    axes.set_title("area: bytes of an item's row; dashed: nothing is both faster and better", fontsize=9)
    axes.grid(visible=True, which="major", linewidth=0.4)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise PrerankError(f"--figure {file}: {error}") from None


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Of (time, quality) points those that no other is at least as fast and better than, fastest first."""
    front: list[str] = []
    for name in sorted(points, key=lambda each: (points[each][0], -points[each][1])):
        if not front or points[name][1] > points[front[-1]][1]:
            front.append(name)
    return front


def _middle(values: list[int]) -> int:
    return values[len(values) // 2]


def _share(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3f} ± {value['se']:.3f}"


def _lost(value: Mapping[str, float] | None) -> str:
    return "" if value is None else f" ({-value['mean']:+.3f} ± {value['se']:.3f})"


def _title(name: str, judge: str) -> str:
    return f"{name} (the ranker itself)" if name == judge else name
