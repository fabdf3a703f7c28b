"""A study's JSON as Markdown: our means, the paper's values, the differences, the tests, where it ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {"auc": "AUC", "logloss": "logloss", "gauc": "GAUC"}


def table(result: Mapping[str, Any]) -> str:
    """The rows of a study, in their order."""
    paper, same = result["paper"], bool(result["paper"]) and not result["paper"]["differs"]
    heads = ["", "seeds"]
    for metric in ("auc", "logloss"):
        heads += [f"test {NAMES[metric]}"]
        heads += [f"paper ({paper['column']})"] if paper else []
        heads += ["difference"] if same else []
    heads += ["RelaImpr", "GAUC", "best epoch"]
    lines = [line(heads), "|---" * len(heads) + "|"]
    popular = result["popularity"]
    cells = ["popularity", ""]
    for metric in ("auc", "logloss"):
        cells += [f"{popular[metric]:.4f}", *([""] if paper else []), *([""] if same else [])]
    lines.append(line([*cells, "", _number(popular["gauc"]), ""]))
    for name, row in result["rows"].items():
        cells = [row["title"], str(len(row["seeds"]))]
        for metric in ("auc", "logloss"):
            cells.append(spread(row, metric))
            printed = paper["rows"].get(name, {}).get(metric) if paper else None
            cells += [_number(printed, "")] if paper else []
            cells += [f"{row['mean'][metric] - printed:+.4f}" if printed else ""] if same else []
        epochs = [seed["best_epoch"] for seed in row["seeds"].values()]
        kept = str(epochs[0]) if len({*epochs}) == 1 else f"{min(epochs)} to {max(epochs)}"
        gain = "" if name == result["base"] or row["relaimpr"] is None else f"{row['relaimpr']:+.2f} %"
        lines.append(line([*cells, gain, spread(row, "gauc"), kept]))
    return "\n".join([*lines, "", *tests(result), *footer(result)]) + "\n"


def tests(result: Mapping[str, Any]) -> list[str]:
    """The comparisons of a study as a table; nothing where there are none."""
    if not result["tests"]:
        return []
    lines = [
        "| | against | metric | difference | p (Welch, two-sided) | s.e. over users |",
        "|---|---|---|---|---|---|",
    ]
    for test in result["tests"]:
        best = result["rows"][test["against"]]["title"]
        missing = f" (without {', '.join(test['missing'])})" if test["missing"] else ""
        cells = [result["rows"][test["row"]]["title"], f"{best}{missing}", NAMES[test["metric"]]]
        error = _number(test.get("users_se"), "")
        lines.append(line([*cells, f"{test['difference']:+.4f}", p_value(test["p"]), error]))
    return [*lines, ""]


def footer(result: Mapping[str, Any]) -> list[str]:
    """On what it was measured, with which budget, and how to do it again."""
    rows = result["rows"].values()
    budgets = {(row["training"]["max_epochs"], row["training"]["patience"]) for row in rows}
    bounds = ", ".join(f"at most {epochs} epochs, patience {patience}" for epochs, patience in sorted(budgets))
    facts = result["dataset"]["facts"]["parts"]
    said = f"{facts['train']['rows']:,} training and {facts['test']['rows']:,} test rows; {bounds}; one thread a run"
    return footer_lines(result, said)


def footer_lines(result: Mapping[str, Any], said: str) -> list[str]:
    """What was said, then the machine, the paper and the commands."""
    theirs, places = result["paper"], [result["environment"], *result.get("elsewhere", [])]
    machines = dict.fromkeys(f"{place['processor'] or place['machine']}, PyTorch {place['torch']}" for place in places)
    text = f"{said}; {' and '.join(machines)}."
    if theirs:
        text += f" Paper: {theirs['source']}{'; ' if theirs['differs'] else ''}{theirs['differs'] or ''}."
    return [text, "", *(f"    {command}" for command in result["commands"])]


def spread(row: Mapping[str, Any], metric: str) -> str:
    """Mean and standard deviation over seeds."""
    mean, deviation = row["mean"][metric], row["sd"][metric]
    if mean is None:
        return "-"
    return f"{mean:.4f}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"


def p_value(p: float | None) -> str:
    """Two significant digits; a dash where there are too few seeds."""
    if p is None:
        return "-"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _number(value: float | None, absent: str = "-") -> str:
    return absent if value is None else f"{value:.4f}"


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"
