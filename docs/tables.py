"""Write the tables of README.md and docs/: results from the JSON in results/, models from the registry.

A page says where with ``<!-- table: results/FILE.json -->``, ``<!-- table: models -->``, ``<!-- table: fit -->``,
``<!-- table: tuning -->`` or ``<!-- table: studies -->``, up to ``<!-- end -->``. The last is every study of results/
with its figure, which is drawn to docs/studies; ``tuning`` is every search of results/tuning/DATASET/ROW.json.

Example: python docs/tables.py
"""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

from prerank.bench.latency_report import large_table
from prerank.bench.latency_report import markdown as latency_table
from prerank.bench.serving_report import markdown as serving_table
from prerank.bench.store import HEADINGS
from prerank.bench.store import table as store_table
from prerank.bench.training_report import markdown as training_table
from prerank.study.cascade_report import markdown as cascade_table
from prerank.study.compare import markdown_table
from prerank.study.model_table import ablation_table, model_table
from prerank.study.papers.definition import find_study, known_data, study_names
from prerank.study.papers.figure import draw
from prerank.study.papers.report import heading
from prerank.study.papers.report import markdown as study_table

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "studies"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PLACE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """The text with every table made anew from what its marker names."""

    def table(match: re.Match[str]) -> str:
        made = {"models": model_table, "fit": ablation_table, "studies": studies, "tuning": tuning}.get(match[2])
        return f"{match[1]}{made() if made else result_table(ROOT / match[2])}{match[3]}"

    return PLACE.sub(table, text)


def result_table(file: Path) -> str:
    """The table of a committed result, whichever measurement or study it is of."""
    result = json.loads(file.read_text(encoding="utf-8"))
    if "study" in result:
        return study_table(result)
    if "cascade" in result:
        return cascade_table(result)
    if "stores" in result:
        rows = [HEADINGS, ["---"] * len(HEADINGS), *store_table(result)]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)
    if "overload_seconds" in result or "bad_served" in result:
        return f"{serving_table(result)}\n"
    if "encoded" in result:
        return f"{large_table(result)}\n"
    if "batch_rows" in result.get("settings", {}):
        made: str = training_table(result)
    else:
        made = f"{latency_table(result)}\n" if "floor_ms" in result else markdown_table(result)
    return made


def study_results() -> dict[Path, dict[str, Any]]:
    """The figure and the content of every study in results/, in the order of the papers, then of the data sets."""
    files = sorted((ROOT / "results").glob("*.json"), key=lambda file: file.stem)
    every = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    found = {name: result for name, result in every.items() if "study" in result}
    names, data = study_names(), known_data()
    order = sorted(found, key=lambda name: (names.index(found[name]["study"]), data.index(found[name]["data"])))
    return {FIGURES / f"{name}.{format_of(found[name])}": found[name] for name in order}


def format_of(result: dict[str, Any]) -> str:
    """Maps have thousands of dots, which are smaller as pixels."""
    return "png" if result.get("maps") else "svg"


def studies() -> str:
    """A section for every study: what it is, its figure, its table."""
    sections = []
    for figure, result in study_results().items():
        name = heading(result)
        sections.append(f"### {name}\n\n![{name}](studies/{figure.name})\n\n{study_table(result)}")
    return "\n".join(sections)


def tuning() -> str:
    """A row for every search: the default's and the best trial's validation AUC, and what the best has chosen."""
    lines = [
        "| data set | row | trials | default, validation AUC | best | the best's values |",
        "|---|---|---|---|---|---|",
    ]
    files = ROOT / "results" / "tuning"
    for data, (name, row) in product(known_data(), find_study("table1").rows.items()):
        file = files / data / f"{name}.json"
        if not file.exists():
            continue
        result = json.loads(file.read_text(encoding="utf-8"))
        default, best = result["trials"][0], result["trials"][result["best"]]
        values = ", ".join(f"{key.partition('.')[2]} {value:g}" for key, value in best["values"].items())
        chosen = "the default" if best is default else values
        aucs = f"{default['valid_auc']:.4f} | {best['valid_auc']:.4f}"
        lines.append(f"| {data} | {row.title} | {len(result['trials'])} | {aucs} | {chosen} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    for figure, result in study_results().items():
        draw(result, figure)
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
