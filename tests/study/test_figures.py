"""Figures on data small enough to know what must be seen."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from prerank.batch import Features
from prerank.errors import PrerankError
from prerank.models.fit import FIT, FITConfig
from prerank.models.two_tower import TwoTower, TwoTowerConfig
from prerank.schema import Inputs
from prerank.study import figures, item_map
from prerank.study.figures import ACCENT, MUTED, Line, line_chart, map_chart
from prerank.study.item_map import ItemMap, embed_items

INPUTS = Inputs(
    user={"user": 3},
    item={"item": 16, "shop": 4},
    history=("item",),
    user_id="user",
    item_id="item",
    history_length=50,
)


def curve(svg: str, colour: str) -> list[tuple[float, float]]:
    """The points of the first line of a colour that has no marker or tick in it."""
    paths = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: {re.escape(colour)}', svg)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", paths[0])]


def parsed(svg: str) -> ET.Element:
    """The figure as XML, for which it has to name what a page takes for granted."""
    return ET.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="x" ', 1))


def texts(svg: str) -> list[str]:
    return [text.text or "" for text in parsed(svg).iter("text")]


def world() -> FIT:
    """Fifteen items in three directions, and four queries of which three point there."""
    model = FIT(INPUTS, FITConfig(embedding=3, tower=(4,), attention=(2,), meta_queries=4, self_attention=False))
    directions = torch.eye(3)[torch.arange(16) % 3]
    noise = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)) * 0.05
    with torch.no_grad():
        model.item_fields.tables[0].copy_(0.01 * (directions + noise))
        model.queries.matrix.copy_(torch.tensor([[0.0, 5, 0], [5, 0, 0], [-5, -5, -5], [0, 0, 5]]))
    return model


def items(*ids: int) -> Features:
    return Features({"item": torch.tensor(ids), "shop": torch.zeros(len(ids), dtype=torch.int64)}, len(ids))


def test_curve_is_drawn_to_scale() -> None:
    svg = line_chart([Line("a", [0.0, 1.0, 0.75], ACCENT, kept=2), Line("b", [0.5, 0.5], MUTED)], "loss")
    (x1, y1), (x2, y2), (x3, y3) = curve(svg, "var(--accent)")
    assert x3 - x2 == pytest.approx(x2 - x1)
    assert y2 < y1  # upwards
    assert (y1 - y3) / (y1 - y2) == pytest.approx(0.75, abs=1e-4)
    assert {"1", "2", "3", "epoch", "a", "b"} <= set(texts(svg))


def test_colours_are_those_of_the_page() -> None:
    svg = line_chart([Line("a", [1.0, 2.0], ACCENT)], "loss")
    assert parsed(svg).get("aria-label") == "loss"
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) <= {
        "none", "var(--ink)", "var(--muted)", "var(--rule)", "var(--accent)",
    }  # fmt: skip


def test_epochs_are_whole_numbers_even_when_there_is_one() -> None:
    assert "1" in texts(line_chart([Line("a", [0.5], ACCENT, kept=1)], "x"))
    labels = texts(line_chart([Line("a", [0.5] * 30, ACCENT)], "x"))
    assert all(re.fullmatch(r"\d+", label) for label in labels if label.startswith(("1", "2", "3")))


def test_map_knows_queries_norms_and_agreement() -> None:
    placed = embed_items(world(), items(*range(1, 16)))
    assert placed is not None
    # Item n points in direction n mod 3; the queries of directions 0, 1, 2 are 1, 0, 3.
    assert placed.index.tolist() == [[1, 0, 3][n % 3] for n in range(1, 16)]
    assert placed.used.tolist() == [0, 1, 3]
    assert (placed.meta_queries, placed.catalogue) == (4, 15)
    assert placed.item_norm == pytest.approx(0.01, rel=0.2)
    assert placed.query_norm == 5.0
    assert placed.agreement == 1.0
    assert placed.chance == pytest.approx(3 * (5 * 4) / (15 * 14))
    assert np.isfinite(placed.items).all()
    assert np.isfinite(placed.queries).all()


def test_a_star_lies_among_its_items() -> None:
    placed = embed_items(world(), items(*range(1, 16)))
    assert placed is not None
    for query, place in zip(placed.used, placed.queries, strict=True):
        distances = np.linalg.norm(placed.items - place, axis=1)
        assert placed.index[distances.argmin()] == query


def test_a_map_is_drawn_once_and_for_all() -> None:
    first, second = (embed_items(world(), items(*range(1, 16))) for _ in range(2))
    assert first is not None
    assert second is not None
    assert np.array_equal(first.items, second.items)
    assert map_chart(first, "map") == map_chart(second, "map")


def test_a_large_catalogue_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_map, "LIMIT", 9)
    placed = embed_items(world(), items(*range(1, 16)))
    assert placed is not None
    assert (len(placed.items), placed.catalogue) == (9, 15)


def test_unknown_items_alone_make_a_map_without_nan() -> None:
    model = world()
    with torch.no_grad():
        model.item_fields.tables[0].zero_()
    placed = embed_items(model, items(*range(5)))
    assert placed is not None
    assert placed.used.tolist() == [0]
    assert placed.chance == 1.0
    assert "nan" not in map_chart(placed, "map")


def test_no_meta_queries_no_map() -> None:
    plain = FIT(INPUTS, FITConfig(tower=(4,), meta_queries=0))
    assert embed_items(plain, items(1, 2, 3, 4)) is None
    assert embed_items(TwoTower(INPUTS, TwoTowerConfig(tower=(4,))), items(1, 2, 3, 4)) is None


def test_too_few_items_for_a_map() -> None:
    with pytest.raises(ValueError, match="at least four items, got 3"):
        embed_items(world(), items(1, 2, 3))


def test_neighbouring_queries_differ_in_colour() -> None:
    """Twenty queries in a row, eight items each: more than there are colours, so colours repeat, but far apart."""
    index = np.repeat(np.arange(20), 8)
    places = np.stack([index * 10.0, np.tile(np.arange(8.0), 20)], axis=1).astype(np.float32)
    placed = ItemMap(
        items=places,
        index=index,
        queries=places[::8],
        used=np.arange(20),
        meta_queries=20,
        catalogue=160,
        item_norm=1.0,
        query_norm=1.0,
        agreement=1.0,
        chance=0.05,
    )
    svg = map_chart(placed, "map")
    stars = parsed(svg).findall(".//g[@id='map-PathCollection_2']//use")
    colours = [re.search(r"fill: (#\w+)", star.get("style", "")) for star in stars]
    found = [colour.group(1) for colour in colours if colour]
    assert len(found) == 20
    assert set(found) == set(figures.PALETTE)
    for place in range(19):
        assert found[place] != found[place + 1]
    numbers = [text for text in texts(svg) if text]
    assert 0 < len(numbers) <= figures.LABELLED
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(
    ("module", "package"), [("matplotlib.figure", "matplotlib"), ("sklearn.manifold", "scikit-learn")]
)
def test_missing_extra_is_one_clear_line(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(figures, "import_module", absent)
    with pytest.raises(PrerankError) as caught:
        figures.require(module)
    assert str(caught.value) == f"{package} is needed for figures; install it with: pip install 'prerank[plots]'"
    with pytest.raises(PrerankError, match=r"prerank\[plots\]"):
        line_chart([Line("a", [1.0], ACCENT)], "x")


def test_plots_are_imported_only_when_drawn() -> None:
    """The command line imports the report; it must work without the extra."""
    code = "import sys, prerank.study.report; sys.exit('matplotlib' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
