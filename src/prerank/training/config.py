"""What defines a run: data, model, training and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from prerank.config import Strict, override, parse, read_yaml
from prerank.models.base import ModelConfig
from prerank.models.registry import model_config


class TrainingConfig(Strict):
    """The papers' training (FIT sec. 5.1.4: Adam, 1e-3, 2048 rows, best weights on validation) and its practice."""

    batch_rows: int = Field(default=2048, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    max_epochs: int = Field(default=20, ge=1)
    patience: int = Field(default=3, ge=1, description="epochs without a better validation AUC before stopping")
    clip_norm: float = Field(default=10.0, gt=0, description="bound of the gradient's global norm")
    embedding_decay: float = Field(
        default=0.0,
        ge=0,
        description="decoupled weight decay of embedding tables alone, in learning rates a step",
    )
    fresh_negatives: bool = Field(default=False, description="draw new training negatives for every epoch")
    negatives: int | None = Field(default=None, ge=1, description="per positive; by default as many as are stored")
    teacher: Path | None = Field(default=None, description="a finished run on the same data set, to learn from")
    teacher_weight: float = Field(default=1.0, gt=0, description="weight of the cross-entropy to its probabilities")
    checkpoint_steps: int = Field(default=500, ge=1, description="steps between checkpoints; also at each epoch's end")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps")
    amp: bool = Field(default=False, description="bfloat16 autocast")
    compile: bool = Field(default=False, description="torch.compile of the training path; needs a C++ compiler")


class RunConfig(Strict):
    """One run, as a YAML file gives it. ``model`` is checked against the class that ``model.name`` names."""

    data: Path
    model: Mapping[str, Any]
    training: TrainingConfig = TrainingConfig()
    seed: int = Field(default=1, ge=0)

    @property
    def architecture(self) -> ModelConfig:
        """The model's own configuration, with its defaults filled in."""
        return model_config(self.model, "configuration")


def read_run(path: Path, changes: Sequence[str] = ()) -> RunConfig:
    """Read a run's YAML file with dotted ``key=value`` changes applied.

    Raises:
        ConfigError: a wrong key or value anywhere, the model's included, before any work.
    """
    config = parse(RunConfig, override(read_yaml(path), changes), str(path))
    model_config(config.model, str(path))
    return config
