"""The Markdown of any study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prerank.study.papers.efficiency_report import cost_table
from prerank.study.papers.table import table


def heading(result: Mapping[str, Any]) -> str:
    """What a study is called over its table and its figure: with the data set and what was changed in every row."""
    return ", ".join([result["title"], result["data"], *result.get("changes", [])])


def markdown(result: Mapping[str, Any]) -> str:
    """The table of a study, of results or of costs."""
    return cost_table(result) if "measured" in result else table(result)
