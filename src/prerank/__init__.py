"""prerank: pre-ranking models from raw logs to a served answer.

The names below are the public surface; they are imported when first used, so that ``import prerank`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prerank.data.build import build
    from prerank.data.log import Dataset, RawLog
    from prerank.data.protocol import Protocol, preset
    from prerank.data.sources import open_source
    from prerank.data.sources.tables import read_tables
    from prerank.errors import PrerankError
    from prerank.publish.bundle import Bundle, load_bundle, save_bundle
    from prerank.publish.publish import publish_bundle
    from prerank.publish.updates import ItemUpdates
    from prerank.schema import Schema
    from prerank.serving.preranker import PreRanker, Ranked
    from prerank.serving.request import Request
    from prerank.study.compare import compare_runs
    from prerank.study.experiment import evaluate_run, run_experiment
    from prerank.training.config import RunConfig, TrainingConfig

__version__ = "0.1.0"

_PLACES = {
    "Bundle": "publish.bundle",
    "Dataset": "data.log",
    "ItemUpdates": "publish.updates",
    "PreRanker": "serving.preranker",
    "PrerankError": "errors",
    "Protocol": "data.protocol",
    "Ranked": "serving.preranker",
    "RawLog": "data.log",
    "Request": "serving.request",
    "RunConfig": "training.config",
    "Schema": "schema",
    "TrainingConfig": "training.config",
    "build": "data.build",
    "compare_runs": "study.compare",
    "evaluate_run": "study.experiment",
    "load_bundle": "publish.bundle",
    "open_source": "data.sources",
    "preset": "data.protocol",
    "publish_bundle": "publish.publish",
    "read_tables": "data.sources.tables",
    "run_experiment": "study.experiment",
    "save_bundle": "publish.bundle",
}

__all__ = [
    "Bundle",
    "Dataset",
    "ItemUpdates",
    "PreRanker",
    "PrerankError",
    "Protocol",
    "Ranked",
    "RawLog",
    "Request",
    "RunConfig",
    "Schema",
    "TrainingConfig",
    "build",
    "compare_runs",
    "evaluate_run",
    "load_bundle",
    "open_source",
    "preset",
    "publish_bundle",
    "read_tables",
    "run_experiment",
    "save_bundle",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"prerank.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'prerank' has no attribute {name!r}")
