"""prerank publish and rank."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from prerank.cli import console
from prerank.data.log import Dataset
from prerank.data.sources.tables import read_items
from prerank.errors import ConfigError, RequestError
from prerank.publish.bundle import load_bundle
from prerank.publish.precision import PRECISIONS
from prerank.publish.publish import publish_bundle
from prerank.serving.lines import read_lines
from prerank.serving.preranker import PreRanker
from prerank.study.experiment import BUNDLE, finished

BLOCK = 1024  # requests that are answered together


def publish(
    run: Annotated[Path, typer.Argument(help="a finished run directory")],
    target: Annotated[Path, typer.Option("--to", help="directory of published generations")],
    dtype: Annotated[
        str, typer.Option("--dtype", help="of the item store: float32, float16, bfloat16 or int8")
    ] = "float32",
    items: Annotated[
        Path | None, typer.Option("--items", help="the catalogue, .parquet or .csv; the data set's items if not given")
    ] = None,
) -> None:
    """Encode every item, verify parity with evaluation, and switch to the new generation.

    Example: prerank publish runs/ml-1m/fit --to published --dtype float16

    prerank publish runs/ml-1m/fit --to published --items catalogue.parquet
    """
    config, _ = finished(run)
    precision = next((name for name in PRECISIONS if name == dtype), None)
    if precision is None:
        raise ConfigError(f"--dtype {dtype}: unknown; dtypes: {', '.join(PRECISIONS)}")
    bundle, dataset = load_bundle(run / BUNDLE), Dataset.load(config.data)
    catalogue = None if items is None else read_items(items, bundle.encoder.schema)
    with console.EncodingDisplay() as display:
        generation = publish_bundle(bundle, dataset, target, precision, display.progress, catalogue)
    console.out.print(f"published {generation.name} at {target}")


def rank(
    directory: Annotated[Path, typer.Argument(help="a directory of published generations")],
    user: Annotated[str | None, typer.Option("--user", help="JSON of user fields, or @FILE")] = None,
    candidates: Annotated[
        Path | None, typer.Option("--candidates", help="JSON list, or text with one item id a line")
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option("--requests", help="many at once: one JSON request a line, one JSON answer a line out"),
    ] = None,
    history: Annotated[str, typer.Option("--history", help="JSON list of past items, oldest first, or @FILE")] = "[]",
    context: Annotated[str, typer.Option("--context", help="JSON of context fields, or @FILE")] = "{}",
    columns: Annotated[str, typer.Option("--columns", help="JSON of lists, one value a candidate, or @FILE")] = "{}",
    pairs: Annotated[str, typer.Option("--pairs", help="JSON of lists of pair fields' values, or @FILE")] = "{}",
    k: Annotated[int | None, typer.Option("-k", help="how many to return")] = None,
    ranking: Annotated[str, typer.Option("--ranking", help="score, probability, ecpm, or a formula")] = "score",
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the answer to this file")] = None,
) -> None:
    """Rank candidates for one user, or for many, raw values in, ids and scores out.

    A line of --requests holds user and candidates, and as needed history, context, columns, pairs, k,
    ranking and unknown.

    Example: prerank rank published --user '{"user_id": 1}' --history '[50, 181]' --candidates ids.txt -k 10
    """
    if requests is not None:
        singles = {"--user": user, "--candidates": candidates, "-k": k, "--json": json_file}
        texts = {"--history": (history, "[]"), "--context": (context, "{}"), "--columns": (columns, "{}")}
        texts["--pairs"] = (pairs, "{}")
        changed = [option for option, value in singles.items() if value is not None]
        changed += [option for option, (value, usual) in texts.items() if value != usual]
        if changed or ranking != "score":
            raise RequestError(f"{(*changed, '--ranking')[0]}: not with --requests, where each request has its own")
        rank_lines(PreRanker.load(directory), requests)
        return
    if user is None or candidates is None:
        raise RequestError("rank: give --user and --candidates for one request, or --requests for a file of them")
    ranker = PreRanker.load(directory)
    answer = ranker.rank(
        _json("--user", user, dict),
        id_list(candidates, "--candidates"),
        k,
        ranking,
        history=_json("--history", history, list),
        columns=_json("--columns", columns, dict),
        context=_json("--context", context, dict),
        pairs=_json("--pairs", pairs, dict),
    )
    titles = ranker.titles(answer.ids)
    table = console.plain_table("place", "item", "title", ranking, "score")
    for place, (item, value, score) in enumerate(zip(answer.ids, answer.values, answer.scores, strict=True), start=1):
        table.add_row(str(place), str(item), titles.get(item, ""), f"{value:.6g}", f"{score:.4f}")
    console.out.print(table)
    console.out.print(
        f"generation {answer.generation}; {len(answer.unknown)} unknown candidates dropped, "
        f"{answer.duplicates} duplicates dropped, {answer.unknown_history} unknown past items"
    )
    console.write_json(json_file, answer.content())


def rank_lines(ranker: PreRanker, file: Path) -> None:
    """Answer a file of requests, some at a time, so that its length does not matter.

    Raises:
        RequestError: the file cannot be read, or a request cannot be answered; its line and field are named. Answers
            of whole blocks before it have been printed.
    """
    lines = read_lines(file)
    while block := list(islice(lines, BLOCK)):
        names = [line.place for line in block]
        for answer in ranker.rank_many([line.request for line in block], names.__getitem__):
            typer.echo(json.dumps(answer.content()))


def _json(option: str, given: str, kind: type[Any]) -> Any:
    text = given
    if given.startswith("@"):
        try:
            text = Path(given[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise RequestError(f"{option}: cannot read the file {given[1:]}") from None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RequestError(f"{option}: not valid JSON: {error}") from None
    if not isinstance(value, kind):
        expected = "an object of names to values" if kind is dict else "a list"
        raise RequestError(f"{option}: expected {expected}, got {type(value).__name__}")
    return value


def id_list(path: Path, option: str) -> list[int | str]:
    """Ids of a file that holds a JSON list, or one a line.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise RequestError(f"{option} {path}: cannot be read as a text file") from None
    if text.lstrip().startswith("["):
        ids: list[int | str] = _json(option, text, list)
        return ids
    return [line.strip() for line in text.splitlines() if line.strip()]
