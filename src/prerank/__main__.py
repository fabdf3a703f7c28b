"""``python -m prerank`` is the command line."""

from prerank.cli.main import run

run()
