"""Write the tables of README.md and docs/: results from the JSON in results/, models from the registry.

A page says where with ``<!-- table: results/FILE.json -->``, ``<!-- table: models -->`` or ``<!-- table: fit -->``,
up to ``<!-- end -->``.

Example: python docs/tables.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from prerank.bench.latency_report import large_table
from prerank.bench.latency_report import markdown as latency_table
from prerank.bench.serving_report import markdown as serving_table
from prerank.bench.store import HEADINGS
from prerank.bench.store import table as store_table
from prerank.study.cascade_report import markdown as cascade_table
from prerank.study.compare import markdown_table
from prerank.study.model_table import ablation_table, model_table
from prerank.study.papers.report import markdown as study_table

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PLACE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """The text with every table made anew from what its marker names."""

    def table(match: re.Match[str]) -> str:
        made = {"models": model_table, "fit": ablation_table}.get(match[2])
        return f"{match[1]}{made() if made else result_table(ROOT / match[2])}{match[3]}"

    return PLACE.sub(table, text)


def result_table(file: Path) -> str:
    """The table of a committed result: a study, models, a cascade, latencies, a large catalogue, stores, service."""
    result = json.loads(file.read_text(encoding="utf-8"))
    if "study" in result:
        return study_table(result)
    if "cascade" in result:
        return cascade_table(result)
    if "stores" in result:
        rows = [HEADINGS, ["---"] * len(HEADINGS), *store_table(result)]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)
    if "overload_seconds" in result:
        return f"{serving_table(result)}\n"
    if "encoded" in result:
        return f"{large_table(result)}\n"
    return f"{latency_table(result)}\n" if "floor_ms" in result else markdown_table(result)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
