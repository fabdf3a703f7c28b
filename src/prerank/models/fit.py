"""FIT, the learnable fully interacted two-tower (Xiong et al., SIGIR 2025): meta queries and a learned scorer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from prerank.batch import Batch, Features, History
from prerank.layers.co_action import CoActionUnit
from prerank.layers.dense import Dense
from prerank.layers.dien import DIENUnit
from prerank.layers.embedding import take_rows
from prerank.layers.field_unit import FieldUnit
from prerank.layers.meta_query import MetaQuery, temperature
from prerank.layers.pooling import mean_pool
from prerank.layers.recency import RecencyPool
from prerank.layers.similarity import Form, as_joined, late_interaction
from prerank.layers.tower import Tower
from prerank.layers.unit import AttentionUnit, InteractionUnit
from prerank.models.base import Choice, ModelConfig, PreRankingModel, Widths
from prerank.schema import Inputs


class FITConfig(ModelConfig):
    """The paper's defaults (sec. 5.1.4); the other values are its ablations and sweeps (secs. 5.4 and 5.5)."""

    name: Literal["fit"] = "fit"
    tower: Widths = (300, 300, 128)
    meta_queries: int = Field(default=64, ge=0, description="N; 0 is the ablation w/o MQM: mean-pooled history")
    self_attention: bool = True
    keys: Literal["attended", "raw"] = "attended"
    query: Literal["decaying", "soft", "hard"] = Field(
        default="decaying", description="in training: soft with decaying temperature, soft at 1, or hard"
    )
    decay_epochs: float = Field(default=1.0, gt=0)
    revival: bool = Field(
        default=False, description="replace unused meta queries by candidates during the first epoch; ours"
    )
    interaction: Literal["din", "dien", "deepfm", "can"] = Field(
        default="din", description="how a query meets the history (docs/interaction-units.md)"
    )
    attention: Widths = Field(default=(64, 16), description="din: hidden widths of the attention network")
    positions: bool = Field(
        default=False, description="a learned term for each place in the history; w/o MQM learned weights; ours"
    )
    augru: Literal["paper", "code"] = Field(default="paper", description="dien: the form of the update gate")
    auxiliary_weight: float = Field(default=1.0, ge=0, description="dien: weight of the next behaviour's loss")
    deep: tuple[PositiveInt, ...] = Field(default=(64, 16), description="deepfm: widths of the deep part; none is FM")
    co_action: Widths = Field(default=(8, 4), description="can: widths of the micro-networks")
    scorer: Form = Field(default="lss", description="cosine is w/o LSS; cosine and dot have no heads")
    user_heads: int = Field(default=2, ge=1)
    item_heads: int = Field(default=2, ge=1)
    head_width: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _every_option_is_read(self) -> Self:
        if self.positions and self.meta_queries and self.interaction != "din":
            raise ValueError(f"positions: only interaction din has them, not {self.interaction}")
        if self.revival and not self.meta_queries:
            raise ValueError("revival: there are no meta queries to revive")
        return self


class FIT(PreRankingModel):
    """A user representation for each meta query, an item that knows its query, a learned scorer between heads.

    In training a pair is joined through the soft query, in serving through the hard one: ``user`` computes all
    N representations, ``item`` returns [query index | heads], ``score`` picks by the index.
    """

    pool: Callable[[History], Tensor]

    def __init__(self, inputs: Inputs, config: FITConfig) -> None:
        super().__init__(inputs, config)
        self.config: FITConfig = config
        width = self.behaviour_width
        queried = config.meta_queries > 0
        positions = inputs.history_length if config.positions else 0
        self.index_columns = 1 if queried else 0
        if queried:
            self.queries = MetaQuery(config.meta_queries, width, config.self_attention, config.keys, config.revival)
            self.unit = _unit(config, inputs, width, positions)
        else:
            self.pool = RecencyPool(positions) if positions else mean_pool
        history_width = self.unit.width + width if queried else width
        self.user_tower = Tower(self.user_width + history_width, config.tower)
        self.item_tower = Tower(self.item_width, config.tower)
        self.headed = config.scorer not in ("cosine", "dot")
        if self.headed:
            self.user_heads = Dense(self.user_tower.width, config.user_heads * config.head_width)
            self.item_heads = Dense(self.item_tower.width, config.item_heads * config.head_width)
        self.scorer = late_interaction(config.scorer, config.user_heads, config.item_heads, config.embedding)

    def user(self, features: Features, history: History) -> Tensor:
        """(B, N * W) one representation for each meta query (FIT sec. 4.3.2); (B, W) without meta queries."""
        if not self.index_columns:
            return self._plain(features, history)
        group = self.queries.group()
        return self._queried(features, history, group.expand(features.rows, -1, -1)).flatten(1)

    def item(self, features: Features) -> Tensor:
        """(R, 1 + W) [query index | heads]; (R, W) without meta queries."""
        heads = self._item_heads(features)
        if not self.index_columns:
            return heads
        index = self.queries.index(self.behaviour(features))
        return torch.cat([index.unsqueeze(-1).to(heads.dtype), heads], dim=-1)

    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """Pick each candidate's user representation by its query index, then score the two."""
        if not self.index_columns:
            return self._join(user, item)
        index, heads = item[..., 0].long(), item[..., 1:]
        every = user.unflatten(-1, (self.config.meta_queries, -1))
        first = torch.arange(every.shape[:-2].numel(), device=user.device) * self.config.meta_queries
        places = first.view(every.shape[:-2]) + index
        picked = take_rows(every.flatten(0, -2), places.flatten())
        return self._join(picked.unflatten(0, places.shape), heads)

    def pair(self, features: Features, history: History, items: Tensor) -> Tensor:
        """As in serving, with only the user representations that these candidates pick."""
        if not self.index_columns:
            return super().pair(features, history, items)
        hard = self.queries.hard(items[..., 0].long())
        return self._join(self._queried(features, history, hard), items[..., 1:])

    def relaxed(self, batch: Batch, epochs: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Joined by the soft query, which approaches the hard one as the temperature decays (FIT sec. 4.3.1)."""
        if not self.index_columns:
            return super().relaxed(batch, epochs)
        keys = self.behaviour(batch.items).unflatten(0, batch.labels.shape)
        if self.config.revival and self.training and epochs < 1:
            self.queries.revive(keys.detach().flatten(0, 1))
        queries, profile = self._training_query(keys, epochs), self.user_fields(batch.user)
        interest, losses = self.unit.relaxed(queries, self.history(batch), self._by_field(profile))
        items = self._item_heads(batch.items).unflatten(0, batch.labels.shape)
        return self._join(self._of_query(profile, interest, queries), items), losses

    def diagnose(self, batch: Batch, epochs: float) -> dict[str, Tensor | Choice]:
        """The query similarity QS of training and serving queries (FIT eq. 24), and the indices in use."""
        if not self.index_columns:
            return {}
        keys = self.behaviour(batch.items)
        index = self.queries.index(keys)
        trained = self._training_query(keys, epochs)
        return {
            "query_similarity": torch.cosine_similarity(trained, self.queries.hard(index), dim=-1),
            "query_index": Choice(index, self.config.meta_queries),
        }

    def _training_query(self, keys: Tensor, epochs: float) -> Tensor:
        if self.config.query == "hard":
            return self.queries.hard(self.queries.index(keys))
        decaying = self.config.query == "decaying"
        return self.queries.soft(keys, temperature(epochs, self.config.decay_epochs) if decaying else 1.0)

    def _queried(self, features: Features, history: History, queries: Tensor) -> Tensor:
        """(B, C, W) user representations for (B, C, D) queries (FIT eqs. 19 and 20)."""
        profile = self.user_fields(features)
        interest = self.unit(queries, history, self._by_field(profile))
        return self._of_query(profile, interest, queries)

    def _of_query(self, profile: Tensor, interest: Tensor, queries: Tensor) -> Tensor:
        profile = profile.unsqueeze(1).expand(-1, queries.shape[1], -1)
        return self._user_output(torch.cat([profile, interest, queries], dim=-1))

    def _by_field(self, profile: Tensor) -> Tensor:
        """(B, F * d) to (B, F, d)."""
        fields: Tensor = profile.unflatten(1, (-1, self.config.embedding))
        return fields

    def _plain(self, features: Features, history: History) -> Tensor:
        return self._user_output(torch.cat([self.user_fields(features), self.pool(history)], dim=-1))

    def _user_output(self, x: Tensor) -> Tensor:
        h = self.user_tower(x)
        return as_joined(self.config.scorer, self.user_heads(h) if self.headed else h)

    def _item_heads(self, features: Features) -> Tensor:
        h = self.item_tower(self.item_fields(features))
        return as_joined(self.config.scorer, self.item_heads(h) if self.headed else h)

    def _join(self, user: Tensor, item: Tensor) -> Tensor:
        logit: Tensor = self.scorer(user, item)
        return logit


def _unit(config: FITConfig, inputs: Inputs, width: int, positions: int) -> InteractionUnit:
    fields = (len(inputs.history), len(inputs.user), config.embedding)
    match config.interaction:
        case "din":
            return AttentionUnit(width, config.attention, positions)
        case "dien":
            return DIENUnit(width, config.augru, config.auxiliary_weight)
        case "deepfm":
            return FieldUnit(*fields, config.deep)
        case "can":
            return CoActionUnit(*fields, config.co_action)
