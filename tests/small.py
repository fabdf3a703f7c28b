"""Small models of every name in the registry."""

from __future__ import annotations

from typing import Any

from prerank.models.base import ModelConfig
from prerank.models.registry import MODELS, model_config

ONLY: dict[str, set[str]] = {"lr": {"embedding_std"}}  # its embedding has one width


def small_values(name: str, **wanted: Any) -> dict[str, Any]:
    """What a configuration of that model says: those of the wanted keys that it has."""
    known = ONLY.get(name, set(MODELS[name].config.model_fields))
    return {"name": name, **{key: value for key, value in wanted.items() if key in known}}


def small_config(name: str, **wanted: Any) -> ModelConfig:
    """The same, read."""
    return model_config(small_values(name, **wanted), "test")
