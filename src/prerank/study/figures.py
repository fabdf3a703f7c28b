"""Figures as SVG text that takes its colours from the page it stands in. Needs the extra ``plots``."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prerank.errors import PrerankError

if TYPE_CHECKING:
    from prerank.study.item_map import ItemMap

# Stand-ins for the page's colours, so that a figure follows its light and dark schemes.
INK, MUTED, RULE, ACCENT = "#101010", "#707070", "#d0d0d0", "#0060a0"
_THEME = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", ACCENT: "var(--accent)"}

# For all kinds of colour vision, after Okabe and Ito: without black and yellow, which one of the page's schemes would
# hide, with a lighter blue and a grey.
PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#3f7fd0", "#9a9a9a")

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "prerank",
    "text.parse_math": False,
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}
LABELLED = 15  # queries whose number is written at most


@dataclass(frozen=True)
class Line:
    """A quantity over the epochs 1, 2, …; the epoch ``kept`` is ringed."""

    name: str
    values: Sequence[float]
    colour: str
    kept: int | None = None


def require(module: str) -> Any:
    """A module of the extra ``plots``, imported when a figure is made and not before.

    Raises:
        PrerankError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError:
        name = module.partition(".")[0]
        package = {"sklearn": "scikit-learn"}.get(name, name)
        raise PrerankError(f"{package} is needed for figures; install it with: pip install 'prerank[plots]'") from None


def line_chart(lines: Sequence[Line], label: str) -> str:
    """A chart over epochs with a legend; ``label`` describes it to those who cannot see it."""
    with require("matplotlib").rc_context(_STYLE):
        figure = require("matplotlib.figure").Figure(figsize=(3.6, 2.3), layout="constrained")
        axes = figure.subplots()
        for line, marker in zip(lines, cycle("osD^v"), strict=False):
            epochs = range(1, len(line.values) + 1)
            axes.plot(epochs, line.values, color=line.colour, marker=marker, markersize=3.5, label=line.name)
            if line.kept is not None:
                ring = {"markersize": 8, "markerfacecolor": "none", "markeredgecolor": line.colour}
                axes.plot(line.kept, line.values[line.kept - 1], marker="o", linestyle="none", **ring)
        longest = max(len(line.values) for line in lines)
        axes.set_xlim(0.7, longest + 0.3)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(require("matplotlib.ticker").MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.grid(axis="x", visible=False)
        figure.legend(loc="outside upper left", ncols=len(lines), handlelength=1.5, columnspacing=1.2)
        return _svg(figure, label)


def map_chart(placed: ItemMap, label: str) -> str:
    """Items as dots in the colour of their query, hard queries as stars; the most used ones have their number."""
    with require("matplotlib").rc_context(_STYLE):
        figure = require("matplotlib.figure").Figure(figsize=(6.8, 5.4), layout="constrained")
        draw_map(figure.subplots(), placed)
        return _svg(figure, label)


def draw_map(axes: Any, placed: ItemMap) -> None:
    """The same on Matplotlib axes."""
    counts = np.bincount(placed.index, minlength=placed.meta_queries)[placed.used]
    centres = np.stack([np.median(placed.items[placed.index == query], axis=0) for query in placed.used])
    colours = np.array(PALETTE)[_spread_colours(centres, counts, len(PALETTE))]
    axes.set_axis_off()
    axes.set_aspect("equal", adjustable="datalim")
    dots = colours[np.searchsorted(placed.used, placed.index)]
    axes.scatter(*placed.items.T, c=dots, s=10, alpha=0.85, linewidths=0)
    axes.scatter(*placed.queries.T, c=colours, s=105, marker="*", edgecolors=INK, linewidths=0.9)
    for place in _apart(placed.queries, np.argsort(-counts, kind="stable"))[:LABELLED]:
        text = str(placed.used[place])
        axes.annotate(text, placed.queries[place], (0, 8), textcoords="offset points", ha="center", weight="bold")


def _spread_colours(centres: NDArray[np.float32], counts: NDArray[np.int64], colours: int) -> NDArray[np.int64]:
    """A colour number for each of M centres, such that centres of one colour are far apart.

    Greedy, from the largest on: each takes the colour whose nearest holder is the furthest away.
    """
    given = np.full(len(centres), -1)
    for place in np.argsort(-counts, kind="stable"):
        distances = np.linalg.norm(centres - centres[place], axis=1)
        gaps = [distances[given == colour].min(initial=np.inf) for colour in range(colours)]
        given[place] = int(np.argmax(gaps))
    return given


def _apart(places: NDArray[np.float32], order: NDArray[np.int64]) -> list[int]:
    """Of (M, 2) places in that order those that lie apart from all earlier ones, so that labels do not collide."""
    gap = 0.05 * float(np.ptp(places, axis=0).max(initial=0.0))
    kept: list[int] = []
    for place in order:
        if all(np.linalg.norm(places[place] - places[other]) > gap for other in kept):
            kept.append(int(place))
    return kept


def _svg(figure: Any, label: str) -> str:
    """The figure as an element to stand in a page: named, without fixed size, in the page's colours."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<defs>\s*<style.*?</defs>|font-family:[^;\"]*;", "", svg, flags=re.DOTALL)  # the page's matter
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    svg = re.sub(r"<svg[^>]*>", lambda _: f'<svg {box.group()} role="img" aria-label="{escape(label)}">', svg, count=1)
    # Several figures stand in one page, so identifiers are made the figure's own.
    name = re.sub(r"\W+", "-", label).lower()
    svg = re.sub(r'(\bid="|xlink:href="#|url\(#)', lambda found: f"{found.group()}{name}-", svg)
    for stand_in, variable in _THEME.items():
        svg = svg.replace(stand_in, variable)
    return svg
