"""The command line: one line on error, exit code 2, and an example in every command's help."""

from __future__ import annotations

import sys

import typer

from prerank import __version__
from prerank.cli import console
from prerank.cli.bench import bench
from prerank.cli.cascade import cascade
from prerank.cli.data import data
from prerank.cli.demo import demo
from prerank.cli.generations import generations, rollback
from prerank.cli.items import items, verify
from prerank.cli.redis import redis
from prerank.cli.serve import serve
from prerank.cli.serving import publish, rank
from prerank.cli.study import study, tune
from prerank.cli.training import compare, evaluate, fit, select
from prerank.errors import PrerankError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    help="Pre-ranking models, from raw logs to a ranked answer. Start with: prerank demo",
)
app.add_typer(data, name="data")
app.add_typer(items, name="items")
app.add_typer(redis, name="redis")
app.add_typer(bench, name="bench")
commands = (
    demo,
    fit,
    evaluate,
    compare,
    cascade,
    select,
    study,
    tune,
    publish,
    rank,
    serve,
    verify,
    generations,
    rollback,
)
for command in commands:
    app.command()(command)


@app.command()
def version() -> None:
    """Print the version. Example: prerank version"""
    console.out.print(__version__)


def run() -> None:
    """Entry point: a user's mistake is one line on stderr and exit code 2, never a traceback."""
    try:
        code = app(standalone_mode=False)
        sys.exit(code or 0)
    except PrerankError as error:
        _fail(str(error))
    except typer.TyperException as error:
        _fail(error.format_message())
    except typer.Abort:
        sys.exit(130)


def _fail(message: str) -> None:
    console.err.print(f"error: {' '.join(message.split())}", markup=False)
    sys.exit(2)
