"""FSCD (Ma et al., SIGIR 2021): fields chosen by what they tell and what they cost, by gates that learn to close."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from prerank.batch import Batch
from prerank.errors import ConfigError
from prerank.layers.tower import Tower
from prerank.models.base import ModelConfig, Widths
from prerank.models.single_tower import SingleTower
from prerank.schema import Inputs

OPEN = 0.5  # a gate opens in so many cases at first
LIMIT = 1e-6  # uniform noise is kept this far from 0 and 1, whose logits are infinite


class FSCDConfig(ModelConfig):
    """The cost of field f is c_f = w_o o_f + w_e d / 16 + w_n n_f / max n: online work, embedding width, table rows.

    The paper's three terms, in units that make them of the size of one. Only o_f is the user's to say.
    """

    name: Literal["fscd"] = "fscd"
    tower: Widths = (300, 300, 128)
    temperature: float = Field(default=0.1, gt=0, description="of the gates; near 0 they are coins")
    strength: float = Field(default=1e-3, ge=0, description="weight of the costs of open gates beside the logloss")
    compute: Mapping[str, NonNegativeFloat] = Field(default={}, description="o of single fields, 1 where none is given")
    compute_weight: float = Field(default=1.0, ge=0)
    width_weight: float = Field(default=1.0, ge=0)
    keys_weight: float = Field(default=1.0, ge=0)


class FSCD(SingleTower):
    """COLD's tower behind a gate z_f for each field's embedding, which is open with a learned probability.

    In training z_f = sigmoid((logit(p_f) + logit(u)) / t) with fresh u ~ U(0, 1) for each pair, and
    sum_f c_f z_f is added to the loss: with the prior open rate 1 - sigmoid(c_f) the log odds of
    keeping a field against dropping it are c_f, its cost. Served with z_f = p_f. The probabilities rank the fields.
    """

    def __init__(self, inputs: Inputs, config: FSCDConfig) -> None:
        super().__init__(inputs, config)
        self.config: FSCDConfig = config
        self.open = nn.Parameter(torch.full((len(self.field_names),), OPEN).logit())
        self.register_buffer("costs", torch.tensor(self._costs(config)), persistent=False)
        self.tower = Tower(self.fields_width, config.tower)
        self.output = nn.Linear(self.tower.width, 1)

    def logit(self, fields: Tensor) -> Tensor:
        """(n,) from fields times the probabilities that their gates are open."""
        return self._gated(fields, self.open.sigmoid())

    def relaxed(self, batch: Batch, epochs: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Through random gates, and the costs of those that are open."""
        del epochs
        users = self.user(batch.user, self.history(batch)).unsqueeze(1)
        fields = self.join(users, self.candidates(batch))
        gates = self._gates(len(fields))
        cost = self.config.strength * (gates @ self.get_buffer("costs")).mean()
        return self._gated(fields, gates).view(batch.labels.shape), {"cost": cost}

    def importance(self, batch: Batch) -> Tensor:
        """(F,) how probable it is that a gate is open; the same for every batch."""
        del batch
        return self.open.sigmoid()

    def _gates(self, count: int) -> Tensor:
        """(n, F) fresh gates of n pairs; like dropout, they are random in training mode only."""
        if not self.training:
            return self.open.sigmoid().expand(count, -1)
        noise = torch.rand(count, len(self.open), device=self.open.device).clamp(LIMIT, 1 - LIMIT)
        return torch.sigmoid((self.open + noise.logit()) / self.config.temperature)

    def _gated(self, fields: Tensor, gates: Tensor) -> Tensor:
        logit: Tensor = self.output(self.tower((fields * gates.unsqueeze(-1)).flatten(1)))
        return logit.squeeze(-1)

    def _costs(self, config: FSCDConfig) -> list[float]:
        unknown = next((name for name in config.compute if name not in self.field_names), None)
        if unknown is not None:
            raise ConfigError(f"model.compute: {unknown!r} is not a field; fields: {', '.join(self.field_names)}")
        sides = {
            "user": self.user_fields,
            "history": self.item_fields,
            "item": self.item_fields,
            "pair": self.pair_fields,
        }
        places = (name.split(".", 1) for name in self.field_names)
        keys = [len(sides[side].tables[sides[side].positions[name]]) for side, name in places]
        return [
            config.compute_weight * config.compute.get(name, 1.0)
            + config.width_weight * config.embedding / 16
            + config.keys_weight * count / max(keys)
            for name, count in zip(self.field_names, keys, strict=True)
        ]
