"""The table of prerank bench training."""

from __future__ import annotations

from typing import Any

NAMES = {
    "deepctr:DIN": "DeepCTR-Torch's DIN",
    "rechub:DIN": "torch-rechub's DIN",
    "rechub:DSSM": "torch-rechub's DSSM",
}


def markdown(result: dict[str, Any]) -> str:
    """Rows a second, peak memory and AUC of every way, and FIT's and Two-Tower's ratios to the peers."""
    lines = ["| data | model | rows/s | slowest to fastest round | peak MiB | AUC |", "|---|---|---|---|---|---|"]
    for data, ways in result["data"].items():
        for way, one in ways.items():
            rounds = f"{min(one['rounds']):,.0f} to {max(one['rounds']):,.0f}"
            cells = (data, NAMES.get(way, f"`{way}`"), f"{one['rows_per_second']:,.0f}", rounds)
            lines.append(f"| {' | '.join(cells)} | {one['peak_mib']:,.0f} | {one['auc']:.4f} |")
    ratios = _ratios(result["data"])
    if ratios:
        lines += ["", "| data | rows/s of | over those of | ratio |", "|---|---|---|---|"]
        lines += [f"| {data} | {one} | {other} | {ratio:.2f} |" for data, one, other, ratio in ratios]
    return "\n".join(lines) + "\n"


def _ratios(data: dict[str, Any]) -> list[tuple[str, str, str, float]]:
    pairs = [("fit", "deepctr:DIN"), ("fit", "rechub:DIN"), ("two_tower", "rechub:DSSM"), ("two_tower", "fit")]
    found = [
        (name, f"`{one}`", NAMES.get(other, f"`{other}`"), _rate(ways, one) / _rate(ways, other))
        for name, ways in data.items()
        for one, other in pairs
        if one in ways and other in ways
    ]
    if {"ml-1m", "amazon-sports"} <= set(data) and all("fit" in data[name] for name in ("ml-1m", "amazon-sports")):
        ratio = _rate(data["amazon-sports"], "fit") / _rate(data["ml-1m"], "fit")
        found.append(("amazon-sports", "`fit`", "`fit` on ml-1m", ratio))
    return found


def _rate(ways: dict[str, Any], way: str) -> float:
    rate: float = ways[way]["rows_per_second"]
    return rate
