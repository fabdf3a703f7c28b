"""The report's parts about data and models, each from the JSON values of runs and comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, cycle
from typing import Any

from prerank.config import parse
from prerank.data.protocol import Protocol
from prerank.study.compare import POPULARITY
from prerank.study.figures import ACCENT, MUTED, PALETTE, Line, line_chart, map_chart
from prerank.study.item_map import PERPLEXITY, ItemMap
from prerank.study.page import Html, element, figure, join, note, section, table
from prerank.study.wording import audit_in_words, protocol_in_words

Json = Mapping[str, Any]

QUANTILES = {
    "p0": "shortest",
    "p10": "10 %",
    "p25": "25 %",
    "p50": "median",
    "p75": "75 %",
    "p90": "90 %",
    "p100": "longest",
}
CURVES = {"valid_auc": "Validation AUC", "valid_logloss": "Validation logloss", "train_loss": "Training loss"}
INDEX = "valid_query_index"


def summary(comparison: Json) -> Html:
    """The AUC of every run at a glance."""
    runs, base = comparison["runs"], comparison["base"]
    best = max(runs, key=lambda name: runs[name]["test"]["auc"])
    tiles = [
        element(
            "div",
            element("span", f"{name}, test AUC"),
            element("b", f"{row['test']['auc']:.4f}"),
            element("span", f"± {row['auc_se']:.4f}"),
            element("span", "the base of all differences" if name == base else f"{_difference(row)} against {base}"),
            css="tile best" if name == best else "tile",
        )
        for name, row in runs.items()
    ]
    models = _listed(name for name in runs if name != POPULARITY)
    part = comparison["dataset"]["facts"]["parts"]["test"]
    size = f"{part['rows']:,} rows of {part['users']:,} users"
    return join(
        element("p", f"{models}, tested on {size} and scored by the path that serving takes.", css="lead"),
        element("div", *tiles, css="tiles"),
        note(
            "AUC is the probability that a positive scores above a negative. After each ± stands one standard error, "
            "from a bootstrap over users. Each model was trained once: the spread between seeds comes on top."
        ),
    )


def data(dataset: Json) -> Html:
    """What was built: sizes, the protocol in words, history lengths, the leak audit."""
    facts, parts = dataset["facts"], dataset["facts"]["parts"]
    protocol = parse(Protocol, dataset["protocol"], "comparison: protocol")
    sizes = [
        [name, *(f"{part[key]:,}" for key in ("requests", "rows", "users", "items")), f"{part['base_rate']:.4f}"]
        for name, part in parts.items()
    ]
    lengths = [
        [name, f"{part['history_length']['mean']:.1f}", *(part["history_length"].get(key, "") for key in QUANTILES)]
        for name, part in parts.items()
    ]
    counts = [
        [audit_in_words(name), "any" if name.startswith("info_") else "0", f"{count:,}"]
        for name, count in facts["leak_audit"].items()
    ]
    return section(
        "Data",
        element(
            "p",
            f"{facts['users']:,} users, {facts['items']:,} items ({facts['items_with_events']:,} of them with events), "
            f"{facts['behaviours']:,} behaviours. Protocol {protocol.name}: {protocol_in_words(protocol)}",
        ),
        table(["part", "requests", "rows", "users", "items", "base rate"], sizes),
        note("A request is a user at a moment; its candidates are its rows. The base rate is the share of positives."),
        element("h3", "History lengths"),
        table(["part", "mean", *QUANTILES.values()], lengths),
        element("h3", "Leak audit"),
        table(["count of", "expected", "found"], counts, texts=2),
        note(
            "Counted from the finished rows and timelines. Where 0 is expected, anything else would have stopped the "
            "build. The other counts follow from the protocol and are for the reader to judge."
        ),
    )


def learning(reports: Mapping[str, Json], base: str) -> Html:
    """The learning curves, and the meta queries in use where a model has some."""
    colours = _colours(reports, base)
    charts = []
    for key, title in CURVES.items():
        lines = [
            Line(name, [epoch[key] for epoch in report["learning"]], colours[name], report["best_epoch"])
            for name, report in reports.items()
        ]
        charts.append(figure(line_chart(lines, title), title=title))
    queried = {name: report["learning"] for name, report in reports.items() if INDEX in report["learning"][-1]}
    for name, epochs in queried.items():
        title = f"{name}: meta queries, of {epochs[-1][INDEX]['of']}"
        used = Line("in use", [epoch[INDEX]["used"] for epoch in epochs], MUTED)
        perplexity = Line("perplexity", [epoch[INDEX]["perplexity"] for epoch in epochs], colours[name])
        charts.append(figure(line_chart([used, perplexity], title), title=title))
    remarks = [
        "A ring marks the epoch with the best validation AUC, whose weights were kept. Validation is by the served "
        "path. The training loss is a mean over an epoch in which the weights change, by the training path."
    ]
    if queried:
        remarks.append(
            "Perplexity, the exponential of the entropy, is the number of meta queries in effective use among the "
            "validation rows: near 1, all items would share one query."
        )
    unfinished = [name for name, report in reports.items() if report["best_epoch"] == report["training"]["max_epochs"]]
    if unfinished:
        remarks.append(f"The best epoch of {_listed(unfinished)} is the last one allowed: more epochs may do better.")
    return section("Learning", element("div", *charts, css="grid"), note(" ".join(remarks)))


def comparison_table(comparison: Json) -> Html:
    """All runs and the popularity baseline side by side."""
    base = comparison["base"]
    rates = comparison["dataset"]["facts"]["parts"]["test"]["base_rate"]
    header = ["model", "test AUC", f"difference to {base}", "RelaImpr", "GAUC", "logloss"]
    header += ["predicted / observed", "rows / s", "parameters"]
    return section(
        "Comparison on the test part",
        table(header, [_compared(name, row, base) for name, row in comparison["runs"].items()]),
        note(
            "After ± stands one standard error; that of a difference is from the same draws of users for both models. "
            "RelaImpr is the gain of AUC over 0.5 in percent. GAUC is the mean of the users' own AUCs, weighted by "
            f"their rows. Logloss is to be read with the base rate of {rates:.4f}. Predicted / observed compares the "
            "sum of probabilities with the number of positives: 1 is calibrated. Rows / s is training throughput on "
            "this machine. The row popularity knows no user: it scores an item by its share of positives in training."
        ),
    )


def serving_gap(reports: Mapping[str, Json]) -> Html:
    """Query similarity and the gap between training path and served path; empty without meta queries."""
    rows = [_gap(name, report["test"]) for name, report in reports.items() if "query_similarity" in report["test"]]
    if not rows:
        return Html()
    header = ["model", "QS", "AUC, soft", "AUC, served", "gap", "logloss, soft", "logloss, served"]
    return section(
        "Does serving match training?",
        table([*header, "in use", "perplexity"], rows),
        note(
            "In training a candidate is joined with the user through a soft mixture of meta queries, in serving "
            "through the one query that its stored index names. QS is the mean cosine between the two over the test "
            "rows (FIT eq. 24); the gap is soft AUC minus served AUC. Both have to be read beside the number of "
            "queries in use: one query for all items would give a QS of 1 and no gap."
        ),
    )


def item_map(items: ItemMap | None) -> Html:
    """The map of items and hard queries; empty without one."""
    if items is None:
        return Html()
    shown = len(items.items)
    drawn = (
        f"{shown:,} items" if shown == items.catalogue else f"{shown:,} of {items.catalogue:,} items, drawn at random,"
    )
    caption = (
        f"Dots: {drawn} in the colour of the meta query that serving gives them. Stars: the {len(items.used)} hard "
        f"queries in use, of {items.meta_queries}; the most used ones bear their index, where there is room. Colours "
        f"repeat; queries of one colour lie far apart. {items.agreement * 100:.1f} % of the items share their query "
        f"with their nearest item (by chance: {items.chance * 100:.1f} %). One t-SNE of both: cosine distance, "
        f"perplexity at most {PERPLEXITY}, fixed seed. Their lengths differ, with a median norm of "
        f"{items.item_norm:.3g} for items and {items.query_norm:.3g} for queries, so only directions are compared, "
        "while the index itself is chosen by dot product. A star therefore need not lie in the middle of its items; "
        "and t-SNE keeps neighbourhoods, not distances."
    )
    title = "Item embeddings and their meta queries"
    return section(title, figure(map_chart(items, title), caption))


def _compared(name: str, row: Json, base: str) -> list[object]:
    test, is_base, trained = row["test"], name == base, name != POPULARITY
    error = element("small", f"± {row['auc_minus_base_se']:.4f}")
    return [
        name,
        join(f"{test['auc']:.4f} ", element("small", f"± {row['auc_se']:.4f}")),
        "" if is_base else join(f"{row['auc_minus_base']:+.4f} ", error),
        "" if is_base else f"{row['relaimpr']:+.2f} %",
        _number(test["gauc"]),
        f"{test['logloss']:.4f}",
        _number(test["calibration"]),
        f"{row['rows_per_second']:,.0f}" if trained else "",
        f"{row['parameters']:,}" if trained else "",
    ]


def _gap(name: str, test: Json) -> list[object]:
    index = test["query_index"]
    return [
        name,
        f"{test['query_similarity']:.4f}",
        f"{test['relaxed_auc']:.4f}",
        f"{test['auc']:.4f}",
        f"{test['auc_gap']:+.6f}",
        f"{test['relaxed_logloss']:.4f}",
        f"{test['logloss']:.4f}",
        f"{index['used']} of {index['of']}",
        f"{index['perplexity']:.1f}",
    ]


def _difference(row: Json) -> str:
    return f"{row['auc_minus_base']:+.4f} ± {row['auc_minus_base_se']:.4f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _colours(names: Iterable[str], base: str) -> dict[str, str]:
    """The base in grey, the first of the others in the accent, further ones from the palette."""
    others = [name for name in names if name != base]
    return {base: MUTED, **dict(zip(others, chain((ACCENT,), cycle(PALETTE)), strict=False))}


def _listed(names: Iterable[str]) -> str:
    return " and ".join(names)
