"""A study's JSON as a figure. Needs the extra ``plots``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from prerank.errors import PrerankError
from prerank.study.figures import INK, MUTED, PALETTE, require
from prerank.study.papers.efficiency_report import MARKERS, draw_bars, draw_candidates, draw_over
from prerank.study.papers.maps import draw_item_map, draw_user_map
from prerank.study.papers.report import heading
from prerank.study.papers.table import NAMES

CURVE_NAMES = {"auc": "validation AUC", "logloss": "validation logloss", "query_similarity": "query similarity QS"}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "prerank",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e0e0e0",
    "legend.frameon": False,
}


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Write the figure that the study asks for.

    Raises:
        PrerankError: Matplotlib is not installed, or the file is of an unknown kind or cannot be written.
    """
    form, mapped = result["figure"], bool(result.get("maps"))
    panels = list(result["maps"]) if mapped else form["metrics"]
    by_row = form["kind"] in ("dots", "bars")
    height = 0.9 + 0.27 * len(result["rows"]) if by_row else 4.6 if mapped else 3.4
    with require("matplotlib").rc_context(STYLE):
        size = (max(6.0, 0.6 + 4.4 * len(panels)), height)
        figure = require("matplotlib.figure").Figure(figsize=size, layout="constrained")
        every = figure.subplots(1, len(panels), squeeze=False, sharey=by_row)[0]
        for axes, panel in zip(every, panels, strict=True):
            _drawer(result)(axes, result, panel)
            if not mapped:
                axes.grid(visible=True, linewidth=0.6)
        figure.suptitle(heading(result), fontsize=10)
        handles = {
            label: handle for axes in every for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        if handles:
            columns = min(len(handles), 2 * len(panels))
            figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=8)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
        except (OSError, ValueError) as error:
            raise PrerankError(f"--figure {file}: {error}") from None


def _drawer(result: Mapping[str, Any]) -> Callable[[Any, Mapping[str, Any], str], None]:
    costs = "measured" in result
    drawers = {
        "dots": _dots,
        "lines": draw_over if costs else _lines,
        "curves": _curves,
        "bars": draw_bars,
        "candidates": draw_candidates,
        "item_map": draw_item_map,
        "user_map": draw_user_map,
    }
    return drawers[result["figure"]["kind"]]


def _dots(axes: Any, result: Mapping[str, Any], metric: str) -> None:
    """A line of dots a row: the seeds, their mean, the paper's value."""
    rows = result["rows"]
    printed = result["paper"]["rows"] if result["paper"] else {}
    for place, (name, row) in enumerate(rows.items()):
        seeds = [seed["test"][metric] for seed in row["seeds"].values()]
        labels = ("a seed", "mean", "paper") if place == 0 else (None, None, None)
        axes.plot(seeds, [place] * len(seeds), "o", color=PALETTE[5], alpha=0.45, markersize=5, label=labels[0])
        axes.plot(row["mean"][metric], place, "|", color=INK, markersize=13, markeredgewidth=2, label=labels[1])
        if metric in printed.get(name, {}):
            own = {"color": PALETTE[3], "markerfacecolor": "none", "markersize": 6}
            axes.plot(printed[name][metric], place, "D", label=labels[2], **own)
    axes.set_yticks(range(len(rows)), [row["title"] for row in rows.values()])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"test {NAMES[metric]}")


def _lines(axes: Any, result: Mapping[str, Any], metric: str) -> None:
    """Means over ``x``, a line a series, with deviations over seeds."""
    series: dict[str | None, list[Mapping[str, Any]]] = {}
    for row in result["rows"].values():
        series.setdefault(row["series"], []).append(row)
    for (name, rows), colour, marker in zip(series.items(), cycle(PALETTE), cycle(MARKERS), strict=False):
        ordered = sorted(rows, key=lambda row: row["x"])
        places = [row["x"] for row in ordered]
        means = [row["mean"][metric] for row in ordered]
        errors = [row["sd"][metric] or 0.0 for row in ordered]
        axes.errorbar(places, means, errors, color=colour, marker=marker, markersize=5, capsize=3, label=name)
    ticks = sorted({row["x"] for row in result["rows"].values()})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(xlabel=result["figure"]["x"], ylabel=f"test {NAMES[metric]}")


def _curves(axes: Any, result: Mapping[str, Any], metric: str) -> None:
    """Validation over epochs: the mean over the seeds that came so far, between the least and the greatest."""
    for row, colour, marker in zip(result["rows"].values(), cycle(PALETTE), cycle(MARKERS), strict=False):
        curves = [seed["curves"].get(f"valid_{metric}", []) for seed in row["seeds"].values()]
        longest = max(map(len, curves))
        if not longest:
            continue
        by_epoch = [[curve[epoch] for curve in curves if epoch < len(curve)] for epoch in range(longest)]
        epochs = np.arange(1, longest + 1)
        axes.fill_between(epochs, list(map(min, by_epoch)), list(map(max, by_epoch)), color=colour, alpha=0.2, lw=0)
        means = [float(np.mean(values)) for values in by_epoch]
        axes.plot(epochs, means, color=colour, marker=marker, markersize=4, label=row["title"])
    axes.xaxis.set_major_locator(require("matplotlib.ticker").MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.set(xlabel="epoch", ylabel=CURVE_NAMES[metric])
