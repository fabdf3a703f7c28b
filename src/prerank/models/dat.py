"""DAT, the dual augmented two-tower (Yu et al., DLP-KDD 2021): a vector per id that imitates the other tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from prerank.batch import Batch, Features, History, Ragged
from prerank.errors import ConfigError
from prerank.layers.embedding import FieldEmbeddings
from prerank.layers.losses import category_alignment, mimic
from prerank.layers.pooling import mean_pool
from prerank.layers.similarity import ScaledDot, normalised
from prerank.layers.tower import Tower
from prerank.models.base import ModelConfig, PreRankingModel, Widths
from prerank.schema import Inputs, Values


class DATConfig(ModelConfig):
    """Sizes of FIT's comparison, where an item takes a quarter of Two-Tower's storage; weights as quoted for DAT."""

    name: Literal["dat"] = "dat"
    tower: Widths = (300, 300, 32)
    head: Literal["scaled", "bias", "printed", "dot"] = "scaled"
    mimic_user: float = Field(default=0.5, ge=0, description="weight of the mimic loss of the users' vectors")
    mimic_item: float = Field(default=0.5, ge=0, description="weight of the mimic loss of the items' vectors")
    alignment: float = Field(default=1.0, ge=0, description="weight of the category alignment loss")
    category: str | None = Field(
        default=None, description="item field that groups items; by default the first history field but the item id"
    )


class DAT(PreRankingModel):
    """Two-Tower whose inputs also hold an augmented vector of the user's and of the item's id.

    Augmented vectors are as wide as a tower's output. An id that training did not see has row 0.
    """

    def __init__(self, inputs: Inputs, config: DATConfig) -> None:
        super().__init__(inputs, config)
        self.config: DATConfig = config
        self.category = _category(inputs, config)
        width, std = config.tower[-1], config.embedding_std
        self.user_augmented = FieldEmbeddings(_id_field(inputs.user, inputs.user_id, "user"), width, std)
        self.item_augmented = FieldEmbeddings(_id_field(inputs.item, inputs.item_id, "item"), width, std)
        self.user_tower = Tower(self.user_width + self.behaviour_width + width, config.tower)
        self.item_tower = Tower(self.item_width + width, config.tower)
        self.scorer = ScaledDot("bias" if config.head == "dot" else config.head)

    def user(self, features: Features, history: History) -> Tensor:
        """(B, W) vectors of B requests, of unit length unless ``head`` is ``dot``."""
        x = [self.user_fields(features), mean_pool(history), self.user_augmented(features)]
        return self._output(self.user_tower(torch.cat(x, dim=-1)))

    def item(self, features: Features) -> Tensor:
        """(R, W) vectors of R items."""
        x = [self.item_fields(features), self.item_augmented(features)]
        return self._output(self.item_tower(torch.cat(x, dim=-1)))

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """The scaled cosine."""
        logit: Tensor = self.scorer(user, item)
        return logit

    def relaxed(self, batch: Batch, epochs: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The served path with the mimic losses and the category alignment loss."""
        del epochs
        config, shape = self.config, batch.labels.shape
        users = self.user(batch.user, self.history(batch)).unsqueeze(1)
        rows = self.item(batch.items)
        items = rows.unflatten(0, shape)
        of_users = self.user_augmented(batch.user).unsqueeze(1)
        of_items = self.item_augmented(batch.items).unflatten(0, shape)
        losses = {
            "mimic_user": config.mimic_user * mimic(of_users, items, batch.labels),
            "mimic_item": config.mimic_item * mimic(of_items, users, batch.labels),
        }
        if self.category is not None and config.alignment > 0:
            aligned = category_alignment(rows, *_memberships(batch.items.columns[self.category]))
            losses["alignment"] = config.alignment * aligned
        return self.score(users, items), losses

    def _output(self, h: Tensor) -> Tensor:
        return h if self.config.head == "dot" else normalised(h)


def _id_field(fields: Mapping[str, Values], name: str, side: str) -> dict[str, Values]:
    if not isinstance(fields.get(name), int):
        raise ConfigError(
            f"model dat: augmented vectors belong to ids, but {name!r} is not among the {side} fields with ids "
            f"({_with_ids(fields)}); declare it in the schema"
        )
    return {name: fields[name]}


def _category(inputs: Inputs, config: DATConfig) -> str | None:
    """The field that groups items; None, and with it no alignment loss, where histories hold the item id only."""
    if config.category is None:
        others = (name for name in inputs.history if name != inputs.item_id)
        return next((name for name in others if isinstance(inputs.item[name], int)), None)
    if not isinstance(inputs.item.get(config.category), int):
        raise ConfigError(
            f"model.category: {config.category!r} is not an item field with ids; those are: {_with_ids(inputs.item)}"
        )
    return config.category


def _with_ids(fields: Mapping[str, Values]) -> str:
    return ", ".join(name for name, values in fields.items() if isinstance(values, int))


def _memberships(column: Tensor | Ragged) -> tuple[Tensor, Tensor]:
    """(T,) rows and (T,) categories; a row with several values belongs to each of them."""
    if isinstance(column, Ragged):
        return column.owners, column.values
    return torch.arange(len(column), device=column.device), column
