"""What a person sees of long work: a progress bar on a terminal, plain lines elsewhere; results on stdout."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from prerank.study.papers.cells import Cell

# A file or a pipe has no width that tables would have to be cut for.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class _Display:
    """A progress bar on stderr, shown within a ``with`` block; nothing where stderr is not a terminal."""

    def __init__(self, name: str) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=err,
            disable=not err.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task(name, total=None, state="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()


class TrainingDisplay(_Display):
    """Tells of training on stderr: loss, AUC, rows per second and time left."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def message(self, text: str) -> None:
        err.print(f"{self.name}: {text}", markup=False)

    def step(self, epoch: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        self.bar.update(
            self.task,
            description=f"{self.name} epoch {epoch + 1}",
            completed=step,
            total=steps,
            state=f"loss {loss:.4f}  {rows_per_second:,.0f} rows/s",
        )

    def epoch(self, record: dict[str, Any]) -> None:
        parts = [
            f"epoch {record['epoch']}",
            f"loss {record['train_loss']:.4f}",
            f"valid AUC {record['valid_auc']:.4f}",
            f"logloss {record['valid_logloss']:.4f}",
        ]
        for name, value in record.items():
            if isinstance(value, dict):
                label = name.removeprefix("valid_").replace("_", " ")
                parts.append(f"{label} {value['used']}/{value['of']} (perplexity {value['perplexity']:.1f})")
        parts.append(f"{record['rows_per_second']:,.0f} rows/s")
        self.message("  ".join(parts))


class EncodingDisplay(_Display):
    """Tells of the encoding of a catalogue on stderr, or of other work on items: those done, and how many a second."""

    def __init__(self, done: str = "encoded") -> None:
        super().__init__("items")
        self.done = done
        self.begun = time.perf_counter()

    def progress(self, done: int, total: int) -> None:
        """So many of all items are done."""
        self.bar.update(self.task, completed=done, total=total)
        if done == total:
            seconds = time.perf_counter() - self.begun
            err.print(f"{self.done} {total:,} items in {seconds:.1f} s, {total / seconds:,.0f} items/s")


class StepsDisplay(_Display):
    """Tells of a long measurement on stderr: what is being done, and the steps done."""

    def __init__(self) -> None:
        super().__init__("steps")

    def progress(self, what: str, done: int, total: int) -> None:
        """So many steps are done, and what comes next."""
        self.bar.update(self.task, description=what, completed=done, total=total)


class StudyDisplay(_Display):
    """Tells of the runs of a study on stderr: a line each, with what is left."""

    def __init__(self) -> None:
        super().__init__("runs")

    def begun(self, cell: Cell) -> None:
        self.bar.update(self.task, description=f"{cell.row} seed {cell.seed}")
        if self.bar.disable:
            err.print(f"{_clock()} {cell.row} seed {cell.seed}: begins", markup=False)

    def ended(self, cell: Cell, metrics: dict[str, Any] | None, done: int, total: int, left: float | None) -> None:
        result = f"AUC {metrics['auc']:.4f}  logloss {metrics['logloss']:.4f}" if metrics else f"failed, see {cell.log}"
        rest = "" if left is None or done == total else f", about {timedelta(seconds=round(left))} left"
        self.bar.update(self.task, completed=done, total=total)
        err.print(f"{_clock()} {cell.row} seed {cell.seed}: {result}  [{done} of {total} runs{rest}]", markup=False)

    def busy(self, cell: Cell) -> None:
        err.print(f"{_clock()} {cell.row} seed {cell.seed}: is being trained by another process", markup=False)


def _clock() -> str:
    return f"{datetime.now():%H:%M:%S}"


def show_dataset(description: dict[str, Any]) -> None:
    """The facts and the leak audit of a data set."""
    facts = description["facts"]
    protocol = description["protocol"]
    out.print(
        f"{description['name']}: {facts['users']:,} users, {facts['items']:,} items "
        f"({facts['items_with_events']:,} with events), {facts['behaviours']:,} behaviours; "
        f"protocol {protocol['name']}, ties {protocol['ties']}, histories of at most {protocol['history']}"
    )
    columns = ("part", "requests", "rows", "users", "items", "positive", "history", "p10", "p50", "p90")
    table = plain_table(*columns)
    for name, part in facts["parts"].items():
        lengths = part["history_length"]
        table.add_row(
            name,
            *(f"{part[key]:,}" for key in ("requests", "rows", "users", "items")),
            f"{part['base_rate']:.4f}",
            f"{lengths['mean']:.1f}",
            *(f"{lengths[quantile]}" for quantile in ("p10", "p50", "p90")),
        )
    out.print(table)
    out.print("leak audit: " + ", ".join(f"{name} {count:,}" for name, count in facts["leak_audit"].items()))


def show_metrics(title: str, metrics: dict[str, Any]) -> None:
    """One part's metrics, a line each."""
    out.print(title, markup=False)
    table = plain_table("metric", "value")
    for name, value in metrics.items():
        if isinstance(value, dict):
            text = f"{value['used']} of {value['of']} used, perplexity {value['perplexity']:.1f}"
        else:
            text = f"{value:,}" if isinstance(value, int) else number(value)
        table.add_row(name.replace("_", " "), text)
    out.print(table)


def show_unknown(part: str, shares: dict[str, dict[str, float]]) -> None:
    """The fields with values that the training part did not have."""
    found = [f"{side}.{name} {share:.2%}" for side, fields in shares.items() for name, share in fields.items() if share]
    out.print(f"unknown or missing values in the {part} part: {', '.join(found) or 'none'}")


def number(value: float | None) -> str:
    """Four decimals, or a dash for a metric that the rows do not define."""
    return "-" if value is None else f"{value:.4f}"


def plain_table(*columns: str) -> Table:
    """A table without frame that keeps its numbers whole on a narrow terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def write_json(path: Path | None, content: Any) -> None:
    """Write a result for machines, where the user asked for it."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
