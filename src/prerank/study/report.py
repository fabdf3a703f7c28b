"""The report of a study as one HTML page: data, learning, comparison, meta queries, a ranked list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prerank.study import sections
from prerank.study.item_map import ItemMap, embed_items
from prerank.study.page import Html, element, join, note, page, section, table

__all__ = ["RankedTable", "ReportContents", "embed_items", "write_report"]


@dataclass(frozen=True)
class RankedTable:
    """A published model's answer for one user.

    Attributes:
        user: raw values of the user's fields.
        history: the latest past items, oldest first, each with ``title`` and ``genres``.
        ranked: the first of the answer, best first; they have a ``probability`` too, and ``rated_later`` where the
            user really went on to them.
        candidates: how many items were ranked.
        generation: the published generation that answered.
    """

    user: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    ranked: Sequence[Mapping[str, Any]]
    candidates: int
    generation: str

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class ReportContents:
    """What the page is made of.

    Attributes:
        comparison: what ``compare_runs`` returns.
        reports: ``report.json`` of each run, by the run's name.
        items: the map of items and meta queries; None leaves its section out.
        ranked: the answer for one user.
        commands: the command lines that make all of this again.
    """

    comparison: Mapping[str, Any]
    reports: Mapping[str, Mapping[str, Any]]
    items: ItemMap | None
    ranked: RankedTable
    commands: Sequence[str] = ("prerank demo",)


def write_report(path: Path, contents: ReportContents) -> None:
    """Write the page; it needs no other file, no network and no script.

    Raises:
        PrerankError: the extra ``plots`` is not installed.
    """
    comparison = contents.comparison
    title = f"{comparison['dataset']['name']}, from raw log to ranked list"
    text = page(
        title,
        element("h1", title),
        sections.summary(comparison),
        sections.data(comparison["dataset"]),
        sections.learning(contents.reports, comparison["base"]),
        sections.comparison_table(comparison),
        sections.serving_gap(contents.reports),
        sections.item_map(contents.items),
        _ranked(contents.ranked, comparison["dataset"]["facts"]["parts"]["train"]["base_rate"]),
        _reproduce(contents),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _ranked(ranked: RankedTable, base_rate: float) -> Html:
    profile = ", ".join(f"{name} {value}" for name, value in ranked.user.items())
    past = table(["most recent first"], [[_titled(item)] for item in reversed(ranked.history)])
    listed = table(
        ["", "item", "probability"],
        [[place, _titled(item), f"{item['probability']:.4f}"] for place, item in enumerate(ranked.ranked, start=1)],
        texts=2,
    )
    return section(
        "A ranked list",
        element("p", f"For the user with {profile}: the best of {ranked.candidates:,} candidates."),
        element(
            "div",
            element("div", element("h3", f"The user's latest {len(ranked.history)}"), past),
            element("div", element("h3", f"The first {len(ranked.ranked)} of the answer"), listed),
            css="lists",
        ),
        note(
            f"Answered by the published generation {ranked.generation}. A probability is that of a positive among rows "
            f"like those of training, whose base rate is {base_rate:.4f}."
        ),
    )


def _reproduce(contents: ReportContents) -> Html:
    environment = ", ".join(f"{name} {value}" for name, value in contents.comparison["environment"].items())
    seeds = ", ".join(f"{name} {report['seed']}" for name, report in contents.reports.items())
    return section(
        "How to make this again",
        element("pre", "\n".join(contents.commands)),
        note(f"{environment}. Seeds: {seeds}."),
    )


def _titled(item: Mapping[str, Any]) -> Html:
    remark = " - the user went on to rate it" if item.get("rated_later") else ""
    return join(item["title"], element("small", ", ".join(item["genres"]) + remark, css="line"))
