"""The page: well-formed, self-contained, escaped, and every number that of the JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from prerank.data.log import Dataset
from prerank.publish.bundle import load_bundle
from prerank.study.compare import compare_runs
from prerank.study.experiment import BUNDLE, run_experiment
from prerank.study.report import RankedTable, ReportContents, embed_items, write_report
from prerank.training.config import RunConfig, TrainingConfig

VOID = {"meta", "link", "br", "hr", "img", "input"}
SMALL = {"embedding": 4, "tower": (8, 4)}
MODELS: dict[str, dict[str, Any]] = {
    "two_tower": {**SMALL, "name": "two_tower"},
    "fit": {**SMALL, "name": "fit", "meta_queries": 6, "attention": (4,), "head_width": 4},
}
RANKED = RankedTable(
    user={"user_id": 7, "city": '<b>Ulm & "Rom"</b>'},
    history=[{"title": "Older", "genres": ["Drama"]}, {"title": "Newer", "genres": ["Comedy", "Children's"]}],
    ranked=[{"title": "<script>alert(1)</script>", "genres": ["R&B"], "probability": 0.98765}],
    candidates=1234,
    generation="20260102T030405-0123abcd",
)


class Page(HTMLParser):
    """A page read back: its tags must nest, its ids must differ; tables as lists of rows of cell texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.tables: list[list[list[str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"
        ids = [value for _, name, value in self.attributes if name == "id"]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def table(self, corner: str) -> list[list[str]]:
        """The rows below the header of the table whose first two header cells start like this."""
        (found,) = [rows for rows in self.tables if "|".join(rows[0]).startswith(corner)]
        return found[1:]


@pytest.fixture(scope="module")
def contents(world: Dataset, built: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportContents:
    """What the demonstration hands over, from two real runs on a small world."""
    out = tmp_path_factory.mktemp("study")
    reports = {}
    for name, model in MODELS.items():
        training = TrainingConfig(max_epochs=2, batch_rows=256)
        reports[name] = run_experiment(RunConfig(data=built, model=model, training=training), out / name)
    comparison = compare_runs([out / name for name in MODELS])
    bundle = load_bundle(out / "fit" / BUNDLE)
    items = embed_items(bundle.model, bundle.encoder.encode("item", world.items))
    # Through JSON and back, as a reader of report.json would have it.
    return ReportContents(json.loads(json.dumps(comparison)), json.loads(json.dumps(reports)), items, RANKED)


def written(path: Path, contents: ReportContents) -> tuple[str, Page]:
    write_report(path / "report.html", contents)
    text = (path / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def page(contents: ReportContents, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return written(tmp_path_factory.mktemp("page") / "new" / "directory", contents)[1]


def test_needs_no_other_file_and_no_script(contents: ReportContents, tmp_path: Path) -> None:
    text, page = written(tmp_path, contents)
    assert text.startswith("<!DOCTYPE html>")
    assert not re.search(r"https?:|@import|file:|\bon\w+=", text)
    assert all(target.startswith("(#") for target in re.findall(r"url(\([^)]*\))", text))
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    references = [value for _, name, value in page.attributes if name.split(":")[-1] in ("href", "src")]
    ids = {value for _, name, value in page.attributes if name == "id"}
    assert references  # the markers of the figures
    assert all(value is not None and value.removeprefix("#") in ids for value in references)


def test_every_figure_is_named_and_scales(page: Page) -> None:
    figures = [name for tag, name, _ in page.attributes if tag == "svg"]
    assert page.tags.count("svg") == 5  # three curves, the meta queries in use, the map
    assert figures.count("aria-label") == figures.count("viewbox") == 5
    assert "width" not in figures
    assert "height" not in figures


def test_the_same_contents_give_the_same_page(contents: ReportContents, tmp_path: Path) -> None:
    assert written(tmp_path / "a", contents)[0] == written(tmp_path / "b", contents)[0]


def test_comparison_shows_the_numbers_of_the_json(contents: ReportContents, page: Page) -> None:
    runs = contents.comparison["runs"]
    shown = {row[0]: row[1:] for row in page.table("model|test AUC")}
    assert list(shown) == list(runs) == ["popularity", "two_tower", "fit"]
    for name, run in runs.items():
        auc, difference, gain, gauc, logloss, calibration, speed, parameters = shown[name]
        test = run["test"]
        assert auc == f"{test['auc']:.4f} ± {run['auc_se']:.4f}"
        assert [gauc, logloss, calibration] == [
            f"{test['gauc']:.4f}",
            f"{test['logloss']:.4f}",
            f"{test['calibration']:.4f}",
        ]
        if name == "two_tower":
            assert difference == gain == ""
        else:
            assert difference == f"{run['auc_minus_base']:+.4f} ± {run['auc_minus_base_se']:.4f}"
            assert gain == f"{run['relaimpr']:+.2f} %"
        if name == "popularity":
            assert speed == parameters == ""
        else:
            assert speed == f"{run['rows_per_second']:,.0f}"
            assert int(parameters.replace(",", "")) == contents.reports[name]["parameters"]


def test_data_facts_are_those_of_the_json(contents: ReportContents, page: Page) -> None:
    facts = contents.comparison["dataset"]["facts"]
    for name, *cells in page.table("part|requests"):
        part = facts["parts"][name]
        assert [int(cell.replace(",", "")) for cell in cells[:4]] == [
            part[key] for key in ("requests", "rows", "users", "items")
        ]
        assert float(cells[4]) == pytest.approx(part["base_rate"], abs=5e-5)
    for name, mean, *quantiles in page.table("part|mean"):
        lengths = facts["parts"][name]["history_length"]
        assert float(mean) == pytest.approx(lengths["mean"], abs=0.05)
        assert [int(cell) for cell in quantiles] == [
            lengths[key] for key in ("p0", "p10", "p25", "p50", "p75", "p90", "p100")
        ]
    audit = page.table("count of|expected")
    assert [int(found.replace(",", "")) for _, _, found in audit] == list(facts["leak_audit"].values())
    assert [expected for _, expected, _ in audit] == [
        "any" if name.startswith("info_") else "0" for name in facts["leak_audit"]
    ]


def test_serving_gap_shows_the_numbers_of_the_json(contents: ReportContents, page: Page) -> None:
    ((name, *cells),) = page.table("model|QS")
    test = contents.reports["fit"]["test"]
    index = test["query_index"]
    assert name == "fit"
    assert cells[-2:] == [f"{index['used']} of 6", f"{index['perplexity']:.1f}"]
    keys = ("query_similarity", "relaxed_auc", "auc", "auc_gap", "relaxed_logloss", "logloss")
    assert [float(cell) for cell in cells[:-2]] == pytest.approx([test[key] for key in keys], abs=5e-5)


def test_ranked_list_stands_beside_the_history(page: Page) -> None:
    assert page.table("most recent first") == [["NewerComedy, Children's"], ["OlderDrama"]]
    assert page.table("|item|probability") == [["1", "<script>alert(1)</script>R&B", "0.9877"]]
    assert 'user_id 7, city <b>Ulm & "Rom"</b>: the best of 1,234 candidates' in page.text
    assert RANKED.generation in page.text


def test_best_epoch_at_the_limit_is_said(contents: ReportContents, tmp_path: Path) -> None:
    def with_best(two_tower: int, fit: int) -> str:
        best = {"two_tower": two_tower, "fit": fit}
        reports = {name: {**report, "best_epoch": best[name]} for name, report in contents.reports.items()}
        return written(tmp_path, replace(contents, reports=reports))[1].text

    assert "The best epoch of fit is the last one allowed" in with_best(1, 2)
    assert "The best epoch of two_tower and fit is the last one allowed" in with_best(2, 2)
    assert "the last one allowed" not in with_best(1, 1)


def test_without_meta_queries_their_sections_are_left_out(contents: ReportContents, page: Page, tmp_path: Path) -> None:
    report = contents.reports["two_tower"]
    plain = written(tmp_path, replace(contents, reports={"two_tower": report}, items=None))[1]
    assert plain.tags.count("svg") == 3
    for words in ("Does serving match training?", "hard queries", "Perplexity"):
        assert words in page.text
        assert words not in plain.text


def test_one_epoch_is_enough(contents: ReportContents, tmp_path: Path) -> None:
    reports = {
        name: {**report, "learning": report["learning"][:1], "best_epoch": 1}
        for name, report in contents.reports.items()
    }
    text, page = written(tmp_path, replace(contents, reports=reports))
    assert page.tags.count("svg") == 5
    assert "nan" not in text


def test_odd_names_are_text_everywhere(contents: ReportContents, tmp_path: Path) -> None:
    odd = "<i>a&b</i> $x_1$"
    names = {"popularity": "popularity", "two_tower": "two_tower", "fit": odd}
    comparison = {
        **contents.comparison,
        "dataset": {**contents.comparison["dataset"], "name": odd},
        "runs": {names[name]: run for name, run in contents.comparison["runs"].items()},
    }
    reports = {names[name]: report for name, report in contents.reports.items()}
    page = written(tmp_path, replace(contents, comparison=comparison, reports=reports, commands=[f"run {odd}"]))[1]
    assert "i" not in page.tags
    assert page.text.count(odd) >= 10  # title, tile, tables, and the legend of each curve
    assert f"run {odd}" in page.text


def test_metrics_that_the_rows_do_not_define_are_dashes(contents: ReportContents, tmp_path: Path) -> None:
    fit = contents.comparison["runs"]["fit"]
    undefined = {**fit, "test": {**fit["test"], "gauc": None, "calibration": None}}
    comparison = {**contents.comparison, "runs": {**contents.comparison["runs"], "fit": undefined}}
    page = written(tmp_path, replace(contents, comparison=comparison))[1]
    assert [page.table("model|test AUC")[2][column] for column in (4, 6)] == ["-", "-"]


def test_many_runs_get_colours(contents: ReportContents, tmp_path: Path) -> None:
    many = {"two_tower": contents.reports["two_tower"], **{f"fit{n}": contents.reports["fit"] for n in range(12)}}
    assert written(tmp_path, replace(contents, reports=many))[1].tags.count("svg") == 3 + 12 + 1


def test_ranked_table_is_plain_json() -> None:
    assert json.loads(json.dumps(RANKED.as_json())) == {
        "user": RANKED.user,
        "history": RANKED.history,
        "ranked": RANKED.ranked,
        "candidates": 1234,
        "generation": RANKED.generation,
    }
