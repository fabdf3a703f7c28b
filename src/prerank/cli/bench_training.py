"""prerank bench training: how fast models train, beside other packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prerank.bench.training import Wanted
from prerank.bench.training import training as measure
from prerank.bench.training_report import markdown
from prerank.cli import console
from prerank.errors import ConfigError
from prerank.models.registry import MODELS


def training(
    data: Annotated[list[Path] | None, typer.Option("--data", help="a built data set; several with several")] = None,
    models: Annotated[str, typer.Option("--models", help="separated by commas, or all")] = "fit,two_tower",
    peers: Annotated[
        Path | None, typer.Option("--peers", help="a Python with DeepCTR-Torch and torch-rechub (make oracles)")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="each trains all models in turn")] = 5,
    steps: Annotated[int, typer.Option("--steps", min=1, help="of each model in a round")] = 40,
    batch_rows: Annotated[int, typer.Option("--batch-rows", min=2)] = 2048,
    batches: Annotated[int, typer.Option("--batches", min=1, help="of the validation part, for the AUC")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the result to this file")] = None,
) -> None:
    """Train models a few steps in turn: rows a second, peak memory, AUC after as many steps, and ratios to others.

    Example: prerank bench training --peers .venv-oracles/bin/python --json results/training.json
    """
    chosen = tuple(MODELS) if models == "all" else tuple(name.strip() for name in models.split(",") if name.strip())
    wrong = next((name for name in chosen if name not in MODELS), None)
    if wrong is not None:
        raise ConfigError(f"--models {wrong}: unknown; models: {', '.join(MODELS)}")
    wanted = Wanted(chosen, peers, rounds, steps, batch_rows, batches, seed)
    folders = data or [Path("data/ml-1m"), Path("data/amazon-sports")]
    with console.StepsDisplay() as display:
        result = measure(folders, wanted, display.progress)
    console.out.print(markdown(result), markup=False)
    console.write_json(json_file, result)
