"""prerank items and verify, from files to what is served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch

from prerank.data.encoder import Encoder
from prerank.data.log import Dataset
from prerank.models.registry import create, model_config
from prerank.publish.bundle import Bundle
from prerank.publish.generation import locate
from prerank.publish.publish import publish_bundle
from prerank.serving.preranker import PreRanker

Prerank = Callable[..., tuple[int, str, str]]


@pytest.fixture
def published(world: Dataset, tmp_path: Path) -> Path:
    encoder, config = Encoder.fit(world), model_config({"name": "two_tower", "tower": [8]}, "test")
    torch.manual_seed(0)
    publish_bundle(Bundle(create(config, encoder.inputs), encoder, config, {}), world, tmp_path / "published")
    return tmp_path / "published"


def test_files_of_every_kind_become_items(prerank: Prerank, published: Path, tmp_path: Path) -> None:
    serving = PreRanker.load(published)
    table = pl.DataFrame({"item_id": ["a", "b"], "category": ["category-1", "category-9"]})
    table.write_parquet(tmp_path / "i.parquet")
    table.with_columns(item_id="c" + pl.col("item_id")).write_csv(tmp_path / "i.csv")
    (tmp_path / "i.json").write_text(json.dumps([{"item_id": "j", "category": "category-0"}, {"item_id": 25}]))
    for file, count in (("i.parquet", 2), ("i.csv", 2), ("i.json", 2)):
        code, out, err = prerank("items", "upsert", published, "--file", tmp_path / file)
        assert code == 0 and out.startswith(f"{count} items upserted into generation 2"), err
    (tmp_path / "gone.txt").write_text("a\nitem-0001\n")
    assert prerank("items", "delete", published, "--ids", tmp_path / "gone.txt")[1].startswith("2 ids deleted")
    answer = serving.rank({}, ["a", "b", "ca", "cb", "j", "25", "item-0001", "item-0002"])
    assert sorted(map(str, answer.ids)) == ["25", "b", "ca", "cb", "item-0002", "j"]
    old = locate(published)
    assert prerank("items", "compact", published)[1].startswith("published 2")
    assert locate(published) != old
    again = PreRanker.load(published).rank({}, ["a", "b", "ca", "cb", "j", "25", "item-0001", "item-0002"])
    assert again.ids == answer.ids and again.scores.tolist() == answer.scores.tolist()
    assert prerank("items", "compact", published)[1].endswith("has no updates; nothing to do\n")
    assert prerank("verify", published)[1].endswith("every byte is as it was published\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "i.json: not valid JSON"),
        ("{}", "i.json: expected a list of objects, one an item"),
        ("[1]", "i.json: expected a list of objects, one an item"),
        ('[{"item_id": null}]', "items[0]: an item id is an integer or a text, got None"),
        ('[{"item_id": "a", "price": 3}]', "item.price: unknown field"),
    ],
)
def test_wrong_files_are_one_line(
    prerank: Prerank, published: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "i.json").write_text(content)
    code, out, err = prerank("items", "upsert", published, "--file", tmp_path / "i.json")
    assert code == 2 and out == "" and message in err and err.count("\n") == 1


def test_damage_is_one_line(prerank: Prerank, published: Path) -> None:
    path = locate(published) / "store" / "rows.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, _, err = prerank("verify", published)
    assert code == 2 and "rows.npy: is damaged" in err and err.count("\n") == 1


@pytest.mark.parametrize("command", [["items", "upsert"], ["items", "delete"], ["items", "compact"], ["verify"]])
def test_help_shows_an_example(prerank: Prerank, command: list[str]) -> None:
    assert f"Example: prerank {' '.join(command)} published" in " ".join(prerank(*command, "--help")[1].split())
