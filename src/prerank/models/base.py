"""The contract of all models: three functions, joined only by ``score``.

    behaviour(features) -> (M, D)    what a history sees of an item; kept in the item store
    user(features, history) -> (B, Wu)   once a request
    item(features) -> (R, Wv)            once a catalogue refresh; kept in the item store
    score(user, item) -> (...)           once a candidate; leading dimensions broadcast; a logit

Shape letters: B requests, C candidates of a request in training, K in serving, R rows, M distinct behaviours,
D = width of a behaviour, Wu and Wv = widths of the representations, N meta queries, H heads, P head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, NamedTuple

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from prerank.batch import Batch, Features, History
from prerank.config import Strict
from prerank.layers.embedding import FieldEmbeddings
from prerank.schema import Inputs

Widths = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
"""Widths of a network's layers."""


class ModelConfig(Strict):
    """What every model has: the embeddings (FIT sec. 5.1.4) and their start."""

    embedding: int = Field(default=16, ge=1, description="width d of a field's embedding")
    embedding_std: float = Field(default=1e-4, gt=0, description="standard deviation of embeddings at the start")


class Choice(NamedTuple):
    """Which of so many alternatives a model chose, once for each row."""

    ids: Tensor
    alternatives: int


class PreRankingModel(nn.Module, ABC):
    """A model that can be trained, encoded into an item store and served."""

    index_columns: int = 0
    """How many leading columns of ``item`` are small whole numbers (FIT's query index); a store keeps them exact."""

    reads_pairs: bool = False
    """Whether ``with_pairs`` adds the pair features of user and candidate; a model of two towers cannot."""

    def __init__(self, inputs: Inputs, config: ModelConfig) -> None:
        """Make the embedding tables; the item tables serve candidates and past items alike."""
        super().__init__()
        self.inputs = inputs
        self.config: ModelConfig = config
        self.user_fields = FieldEmbeddings(inputs.user, config.embedding, config.embedding_std)
        self.item_fields = FieldEmbeddings(inputs.item, config.embedding, config.embedding_std)
        self.user_width = len(inputs.user) * config.embedding
        self.item_width = len(inputs.item) * config.embedding
        self.behaviour_width = len(inputs.history) * config.embedding

    def behaviour(self, features: Features) -> Tensor:
        """(R, D) the history fields of R items or behaviour records, embedded and concatenated (FIT eq. 4)."""
        embedded: Tensor = self.item_fields(features, self.inputs.history)
        return embedded

    @abstractmethod
    def user(self, features: Features, history: History) -> Tensor:
        """(B, Wu) everything of B requests that no candidate changes."""

    @abstractmethod
    def item(self, features: Features) -> Tensor:
        """(R, Wv) everything of R items that no request changes."""

    @abstractmethod
    def score(self, user: Tensor, item: Tensor) -> Tensor:
        """Logits of (..., Wu) against (..., Wv); a candidate's logit depends on no other candidate."""

    def with_pairs(self, items: Tensor, pairs: Features) -> Tensor:
        """(..., Wv') item representations (..., Wv) with their rows of pair features added, as ``score`` reads them.

        Called once a request, for data with pair fields only; models that do not read them leave the items alone.
        """
        del pairs
        return items

    def pair(self, features: Features, history: History, items: Tensor) -> Tensor:
        """(B, C) served logits of B requests and their own (B, C, Wv) item representations.

        A model may override it to leave out what these candidates do not need; the result is the same.
        """
        return self.score(self.user(features, history).unsqueeze(1), items)

    def relaxed(self, batch: Batch, epochs: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The training path: (B, C) logits, and auxiliary losses by name, each already weighted.

        Args:
            batch: the rows.
            epochs: optimiser steps so far, over the steps of an epoch; schedules depend on nothing else.
        """
        del epochs
        return self(batch), {}

    def diagnose(self, batch: Batch, epochs: float) -> dict[str, Tensor | Choice]:
        """Quantities of interest on a batch: numbers are averaged over rows, choices are counted."""
        del batch, epochs
        return {}

    def history(self, batch: Batch) -> History:
        """The histories of a batch over the embeddings of its distinct behaviours."""
        return History(self.behaviour(batch.behaviours), batch.history)

    def candidates(self, batch: Batch) -> Tensor:
        """(B, C, Wv) the items of a batch as ``score`` reads them, with the pair features that the model reads."""
        items = self.item(batch.items).unflatten(0, batch.labels.shape)
        return self.with_pairs(items, batch.pairs) if batch.pairs is not None and self.inputs.pair else items

    def forward(self, batch: Batch) -> Tensor:
        """(B, C) logits by the served path, which is also the one that is evaluated."""
        return self.pair(batch.user, self.history(batch), self.candidates(batch))
