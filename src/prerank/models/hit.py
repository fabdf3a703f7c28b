"""HIT (Yang et al., CIKM 2025): inside each tower, generators that imitate what the other tower says of partners."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from prerank.batch import Batch, Features, History
from prerank.layers.dense import Dense
from prerank.layers.losses import generation
from prerank.layers.pooling import mean_pool
from prerank.layers.similarity import Form, as_joined, late_interaction
from prerank.layers.tower import Tower
from prerank.models.base import ModelConfig, PreRankingModel, Widths
from prerank.schema import Inputs


class HITConfig(ModelConfig):
    """The sizes of HIT's code."""

    name: Literal["hit"] = "hit"
    tower: Widths = (300, 300, 32)
    generator: Widths = Field(default=(32, 32), description="hidden widths of a generator")
    heads: int = Field(default=2, ge=1, description="H of both sides")
    head_width: int = Field(default=16, ge=1)
    scorer: Form = "sum_max"
    generation: float = Field(
        default=0.1, description="weight of the generation loss; the code's published training has the other sign"
    )


class HIT(PreRankingModel):
    """Heads of two towers, each of which reads two generated vectors: of positive and of negative partners.

    A generator reads the static fields of its side and learns from the generation loss alone: neither does that
    loss reach the embeddings, nor does the cross-entropy reach the generator.
    """

    def __init__(self, inputs: Inputs, config: HITConfig) -> None:
        super().__init__(inputs, config)
        self.config: HITConfig = config
        width = config.heads * config.head_width
        self.user_generators = nn.ModuleList(_generator(self.user_width, config) for _ in range(2))
        self.item_generators = nn.ModuleList(_generator(self.item_width, config) for _ in range(2))
        self.user_tower = Tower(self.user_width + self.behaviour_width + 2 * width, config.tower)
        self.item_tower = Tower(self.item_width + 2 * width, config.tower)
        self.user_heads = Dense(self.user_tower.width, width)
        self.item_heads = Dense(self.item_tower.width, width)
        self.scorer = late_interaction(config.scorer, config.heads, config.heads, config.embedding)

    def user(self, features: Features, history: History) -> Tensor:
        """(B, H * P) heads of B requests."""
        return self._user(features, history)[0]

    def item(self, features: Features) -> Tensor:
        """(R, H * P) heads of R items."""
        return self._item(features)[0]

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """Sum-max of the heads, or another late interaction."""
        logit: Tensor = self.scorer(user, item)
        return logit

    def relaxed(self, batch: Batch, epochs: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The served path with the generation loss: one generator imitates positive partners, one negative ones."""
        del epochs
        labels, losses = batch.labels, {}
        users, of_users = self._user(batch.user, self.history(batch))
        rows, of_items = self._item(batch.items)
        users, items = users.unsqueeze(1), rows.unflatten(0, labels.shape)
        for number, (name, chosen) in enumerate((("target", labels), ("non_target", 1 - labels))):
            by_user = generation(of_users[number].unsqueeze(1), items, chosen)
            by_item = generation(of_items[number].unflatten(0, labels.shape), users, chosen)
            losses[f"generation_{name}"] = self.config.generation * (by_user + by_item)
        return self.score(users, items), losses

    def _user(self, features: Features, history: History) -> tuple[Tensor, list[Tensor]]:
        """The heads, and what was generated on the way to them."""
        static = self.user_fields(features)
        generated = [generator(static.detach()) for generator in self.user_generators]
        x = torch.cat([static, mean_pool(history), *(vector.detach() for vector in generated)], dim=-1)
        return as_joined(self.config.scorer, self.user_heads(self.user_tower(x))), generated

    def _item(self, features: Features) -> tuple[Tensor, list[Tensor]]:
        static = self.item_fields(features)
        generated = [generator(static.detach()) for generator in self.item_generators]
        x = torch.cat([static, *(vector.detach() for vector in generated)], dim=-1)
        return as_joined(self.config.scorer, self.item_heads(self.item_tower(x))), generated


def _generator(inputs: int, config: HITConfig) -> nn.Sequential:
    """Linear and ReLU for each hidden width, then a linear layer as wide as the other side's heads."""
    layers: list[nn.Module] = []
    for width in config.generator:
        layers += [Dense(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, Dense(inputs, config.heads * config.head_width))
