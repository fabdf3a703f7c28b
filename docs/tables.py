"""Write the tables of README.md from the JSON in results/; with --check, only say whether they are up to date.

Example: python docs/tables.py
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from prerank.study.compare import markdown_table

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PLACE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """The text with every table made anew from the results file that its marker names."""

    def table(match: re.Match[str]) -> str:
        comparison = json.loads((ROOT / match[2]).read_text(encoding="utf-8"))
        return f"{match[1]}{markdown_table(comparison)}{match[3]}"

    return PLACE.sub(table, text)


def main() -> int:
    """Write or check; 1 when the check finds a stale table."""
    text = README.read_text(encoding="utf-8")
    fresh = filled(text)
    if "--check" in sys.argv[1:]:
        return int(fresh != text)
    README.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
