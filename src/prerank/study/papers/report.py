"""The Markdown of any study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prerank.study.papers.efficiency_report import cost_table
from prerank.study.papers.table import table


def markdown(result: Mapping[str, Any]) -> str:
    """The table of a study, of results or of costs."""
    return cost_table(result) if "measured" in result else table(result)
