"""The models by name. A new model is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from prerank.config import parse
from prerank.errors import ConfigError
from prerank.models.base import ModelConfig, PreRankingModel
from prerank.models.cold import COLD, COLDConfig
from prerank.models.dat import DAT, DATConfig
from prerank.models.fit import FIT, FITConfig
from prerank.models.fscd import FSCD, FSCDConfig
from prerank.models.hit import HIT, HITConfig
from prerank.models.int_tower import IntTower, IntTowerConfig
from prerank.models.rank_tower import RankTower, RankTowerConfig
from prerank.models.rankers.autoint import AutoInt, AutoIntConfig
from prerank.models.rankers.dcn import DCN, DCNConfig, DCNv2, DCNv2Config
from prerank.models.rankers.deepfm import DeepFM, DeepFMConfig
from prerank.models.rankers.dien import DIEN, DIENConfig
from prerank.models.rankers.din import DIN, DINConfig
from prerank.models.rankers.edcn import EDCN, EDCNConfig
from prerank.models.rankers.fm import FM, FMConfig
from prerank.models.rankers.lr import LR, LRConfig
from prerank.models.rankers.wide_deep import WideDeep, WideDeepConfig
from prerank.models.selectable import SelectableConfig
from prerank.models.two_tower import TwoTower, TwoTowerConfig
from prerank.schema import Inputs


class Entry(NamedTuple):
    """A model class and its configuration class."""

    model: type[PreRankingModel]
    config: type[ModelConfig]


MODELS: dict[str, Entry] = {
    "two_tower": Entry(TwoTower, TwoTowerConfig),
    "dat": Entry(DAT, DATConfig),
    "int_tower": Entry(IntTower, IntTowerConfig),
    "rank_tower": Entry(RankTower, RankTowerConfig),
    "hit": Entry(HIT, HITConfig),
    "fit": Entry(FIT, FITConfig),
    "cold": Entry(COLD, COLDConfig),
    "fscd": Entry(FSCD, FSCDConfig),
    "lr": Entry(LR, LRConfig),
    "fm": Entry(FM, FMConfig),
    "wide_deep": Entry(WideDeep, WideDeepConfig),
    "deepfm": Entry(DeepFM, DeepFMConfig),
    "dcn": Entry(DCN, DCNConfig),
    "dcn_v2": Entry(DCNv2, DCNv2Config),
    "autoint": Entry(AutoInt, AutoIntConfig),
    "edcn": Entry(EDCN, EDCNConfig),
    "din": Entry(DIN, DINConfig),
    "dien": Entry(DIEN, DIENConfig),
}


def model_config(values: Mapping[str, Any], origin: str) -> ModelConfig:
    """The configuration of the model that ``values["name"]`` names.

    Raises:
        ConfigError: no such model, or a key or value that the model does not accept.
    """
    name = values.get("name")
    if name not in MODELS:
        raise ConfigError(f"{origin}: model.name: {name!r} is not a model; models: {', '.join(MODELS)}")
    return parse(MODELS[name].config, values, f"{origin}: model")


def create(config: ModelConfig, inputs: Inputs) -> PreRankingModel:
    """A model with fresh weights from PyTorch's global generator.

    Raises:
        ConfigError: the configuration names fields that the data does not have.
    """
    entry = next(entry for entry in MODELS.values() if type(config) is entry.config)
    if isinstance(config, SelectableConfig) and config.fields is not None:
        inputs = inputs.only(config.fields)
    return entry.model(inputs, config)


def reads_pairs(config: ModelConfig) -> bool:
    """Whether the model of that configuration reads pair features."""
    return next(entry for entry in MODELS.values() if type(config) is entry.config).model.reads_pairs
