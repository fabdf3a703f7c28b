"""The command line as a hurried user meets it: help with examples, one line and exit code 2 on every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest
import yaml

from prerank.data.encoder import Encoder
from prerank.data.log import Dataset
from prerank.data.sources.synthetic import checkerboard, write_tables
from prerank.models.registry import create, model_config
from prerank.publish.bundle import Bundle
from prerank.publish.publish import publish_bundle
from prerank.serving.preranker import PreRanker

Prerank = Callable[..., tuple[int, str, str]]
MODEL = {"name": "fit", "embedding": 4, "tower": [16, 8], "meta_queries": 4, "head_width": 4, "attention": [8, 4]}
COMMANDS = (
    ["data"],
    ["data", "build"],
    ["data", "show"],
    ["fit"],
    ["evaluate"],
    ["compare"],
    ["cascade"],
    ["publish"],
    ["rank"],
    ["demo"],
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of own tables with their YAML file."""
    directory = tmp_path_factory.mktemp("tables")
    write_tables(checkerboard(users=40, items=80, events_per_user=8, seed=1), directory)
    return directory


@pytest.fixture
def settings(built: Path, tmp_path: Path) -> Path:
    """A run's configuration."""
    path = tmp_path / "run.yaml"
    training = {"max_epochs": 2, "batch_rows": 256}
    path.write_text(yaml.safe_dump({"data": str(built), "model": MODEL, "training": training}))
    return path


def one_line(result: tuple[int, str, str], *expected: str) -> None:
    """A refusal: exit code 2, nothing on stdout, one line that holds every expected text."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    for text in expected:
        assert text in err, f"{text!r} is not in {err!r}"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(prerank: Prerank, command: Sequence[str]) -> None:
    code, out, _ = prerank(*command, "--help")
    assert code == 0
    assert "Example: prerank" in " ".join(out.split()) or command == ["data"]


def test_a_process_of_its_own_behaves_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prerank", "fit", "nowhere.yaml", "--out", "x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: nowhere.yaml: no such file\n"


def test_from_tables_to_a_ranked_list(prerank: Prerank, tables: Path, tmp_path: Path) -> None:
    """The whole way by commands: build, show, fit, evaluate, compare, publish, rank."""
    data, run_directory, published = tmp_path / "data", tmp_path / "fit", tmp_path / "published"
    code, out, _ = prerank("data", "build", tables / "schema.yaml", "--from", tables, "--to", data, "--preset", "din")
    assert code == 0
    assert "leak audit: history_reaches_other_user 0" in out
    assert prerank("data", "show", data, "--json", tmp_path / "facts.json")[1] == out
    facts = json.loads((tmp_path / "facts.json").read_text())["facts"]
    assert facts["parts"]["test"]["requests"] == 40

    counted = ["--match", "category", "--to", tmp_path / "counted", "--preset", "din"]
    assert prerank("data", "build", tables / "schema.yaml", "--from", tables, *counted)[0] == 0
    before, after = Dataset.load(data), Dataset.load(tmp_path / "counted")
    assert [field.name for field in after.schema.pair] == ["category_matches"]
    assert all((before.parts[part].items == after.parts[part].items).all() for part in before.parts)

    settings = tmp_path / "run.yaml"
    settings.write_text(yaml.safe_dump({"data": str(data), "model": MODEL}))
    changes = ["--set", "training.max_epochs=2", "--set", "training.batch_rows=64"]
    code, out, err = prerank("fit", settings, "--out", run_directory, *changes)
    assert code == 0
    assert "valid AUC" in err
    assert "meta" not in err or "query index" in err
    report = json.loads((run_directory / "report.json").read_text())
    assert f"{report['test']['auc']:.4f}" in out

    assert prerank("evaluate", run_directory, "--json", tmp_path / "again.json")[0] == 0
    assert json.loads((tmp_path / "again.json").read_text())["auc"] == pytest.approx(report["test"]["auc"], abs=1e-9)

    code, out, _ = prerank("compare", run_directory, "--json", tmp_path / "compare.json")
    assert code == 0
    assert "| popularity |" in out

    code, out, _ = prerank("publish", run_directory, "--to", published, "--dtype", "float16")
    assert code == 0
    generation = (published / "CURRENT").read_text().strip()
    assert generation in out
    catalogue = tmp_path / "catalogue.csv"
    Dataset.load(data).items.with_columns(pl.selectors.by_dtype(pl.List(pl.String)).list.join("|")).write_csv(catalogue)
    assert prerank("publish", run_directory, "--to", tmp_path / "other", "--items", catalogue)[0] == 0
    one_line(prerank("publish", run_directory, "--to", published, "--items", tmp_path / "none.csv"), "none.csv")

    items = Dataset.load(data).items["item_id"].to_list()
    candidates = tmp_path / "candidates.txt"
    candidates.write_text("\n".join([*items[:20], items[0], "no such item"]))
    answer = tmp_path / "answer.json"
    history = json.dumps(items[20:24])
    code, out, _ = prerank(
        "rank", published, "--user", '{"user_id": 3}', "--candidates", candidates, "--history", history, "-k", "5",
        "--json", answer,
    )  # fmt: skip
    assert code == 0
    content = json.loads(answer.read_text())
    assert len(content["ids"]) == 5
    assert (content["unknown"], content["duplicates"], content["generation"]) == (["no such item"], 1, generation)
    assert content["values"] == sorted(content["values"], reverse=True)


def test_requests_of_a_file(prerank: Prerank, world: Dataset, tmp_path: Path) -> None:
    published, requests = tmp_path / "published", tmp_path / "requests.jsonl"
    encoder, config = Encoder.fit(world), model_config({"name": "two_tower", "tower": [8]}, "test")
    publish_bundle(Bundle(create(config, encoder.inputs), encoder, config, {}), world, published)
    items = world.items["item_id"].to_list()
    line = {"user": {"user_id": 3}, "candidates": items[:20], "history": items[20:24], "k": 5}
    requests.write_text(f"{json.dumps(line)}\n" * 2)
    code, out, _ = prerank("rank", published, "--requests", requests)
    assert code == 0
    ranked = PreRanker.load(published).rank({"user_id": 3}, items[:20], 5, history=items[20:24]).ids
    assert [json.loads(one)["ids"] for one in out.splitlines()] == [ranked] * 2
    requests.write_text(json.dumps({**line, "k": 0}))
    one_line(prerank("rank", published, "--requests", requests), "requests.jsonl: line 1: k: expected")
    one_line(prerank("rank", published, "--requests", requests, "-k", "5"), "-k: not with --requests")
    one_line(prerank("rank", published, "--requests", requests, "--ranking", "ecpm"), "--ranking: not with --requests")
    one_line(prerank("rank", published, "--user", "{}"), "--requests")


WRONG_CONFIGS = {
    "misspelled key": ("training.batch_sise=64", "training.batch_sise", "batch_rows"),
    "value of the wrong kind": ("training.learning_rate=fast", "training.learning_rate"),
    "no such model": ("model.name=fitt", "model.name", "two_tower"),
    "model key of another model": ("model.head=dot", "head", "unknown key"),
    "out of range": ("model.embedding=0", "embedding", "greater than or equal to 1"),
    "through a value": ("seed.x=1", "seed"),
    "no value": ("seed", "--set seed"),
}


@pytest.mark.parametrize("wrong", WRONG_CONFIGS)
def test_wrong_configurations(prerank: Prerank, settings: Path, tmp_path: Path, wrong: str) -> None:
    change, *expected = WRONG_CONFIGS[wrong]
    one_line(prerank("fit", settings, "--out", tmp_path / "out", "--set", change), *expected)
    assert not (tmp_path / "out").exists()


def break_table(directory: Path, name: str, old: str, new: str) -> None:
    path = directory / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("events.csv", "user,item,time", "usr,item,time", ("events.csv", "user")),
        ("users.csv", "user_id", "id", ("users.csv", "user_id")),
        ("items.csv", "\nitem-0001", "\nitem-0000", ("items.csv", "row", "item-0000")),
        ("events.csv", "item-", "nothing-", ("events.csv", "row 1", "nothing-")),
        ("schema.yaml", "events:", "evnts:", ("schema.yaml", "evnts", "events")),
    ],
    ids=["event column", "user column", "duplicate item", "unknown item", "schema key"],
)
def test_broken_tables(
    prerank: Prerank, tmp_path: Path, file: str, old: str, new: str, expected: Sequence[str]
) -> None:
    write_tables(checkerboard(users=10, items=40, events_per_user=4, seed=1), tmp_path, "csv")
    break_table(tmp_path, file, old, new)
    target = tmp_path / "data"
    one_line(prerank("data", "build", tmp_path / "schema.yaml", "--from", tmp_path, "--to", target), *expected)
    assert not target.exists()


def test_hurried_mistakes(prerank: Prerank, built: Path, tables: Path, settings: Path, tmp_path: Path) -> None:
    wrong = prerank("data", "build", "ml-1k", "--from", tmp_path, "--to", tmp_path / "d")
    one_line(wrong, "ml-1k", "did you mean 'ml-100k'")
    one_line(prerank("data", "build", "ml-1m", "--from", tmp_path, "--to", tmp_path / "d"), "ratings.dat", "--download")
    own = ["data", "build", tables / "schema.yaml", "--from", tables, "--to", tmp_path / "d"]
    one_line(prerank(*own, "--match", "colour"), "--match", "'colour' is not a history field: item_id, category")
    one_line(prerank("data", "show", tmp_path), "dataset.json", "prerank data build")
    one_line(prerank("evaluate", built), "not a run directory", "prerank fit")
    one_line(prerank("publish", tmp_path / "nothing", "--to", tmp_path), "nothing")
    one_line(prerank("rank", tmp_path, "--user", "{}", "--candidates", settings), str(tmp_path))
    one_line(prerank("fit", settings), "--out")
    one_line(prerank("fit", settings, "--out", tmp_path, "--restart"), "nothing was deleted")
    one_line(prerank("fti"), "fti")
    assert settings.exists()


def test_a_finished_run_is_not_overwritten(prerank: Prerank, settings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prerank("fit", settings, "--out", out)[0] == 0
    before = (out / "report.json").read_bytes()
    one_line(prerank("fit", settings, "--out", out), "finished run", "--restart")
    assert (out / "report.json").read_bytes() == before
    assert prerank("fit", settings, "--out", out, "--restart")[0] == 0


def test_requests_of_the_wrong_form(prerank: Prerank, settings: Path, tmp_path: Path) -> None:
    out, published, ids = tmp_path / "out", tmp_path / "published", tmp_path / "ids.json"
    assert prerank("fit", settings, "--out", out)[0] == 0
    assert prerank("publish", out, "--to", published)[0] == 0
    one_line(prerank("publish", out, "--to", published, "--dtype", "int7"), "int7", "float16")
    ids.write_text('["item-0001", "item-0002"]')
    for options, expected in [
        (["--user", "{"], "--user"),
        (["--user", "[1]"], "--user"),
        (["--user", '{"usr": 1}'], "user.usr"),
        (["--user", "{}", "--ranking", "bid * score"], "bid"),
        (["--user", "{}", "--ranking", "ecpm", "--columns", '{"bid": [1]}'], "bid"),
        (["--user", "{}", "-k", "0"], "k:"),
        (["--user", "{}", "--history", '{"a": 1}'], "--history"),
        (["--user", "@missing.json"], "missing.json"),
    ]:
        one_line(prerank("rank", published, "--candidates", ids, *options), expected)
    (published / "CURRENT").write_text("../elsewhere")
    one_line(prerank("rank", published, "--candidates", ids, "--user", "{}"), "CURRENT")
