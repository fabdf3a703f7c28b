"""Models whose fields can be chosen, by hand or by ``prerank select``."""

from __future__ import annotations

from pydantic import Field

from prerank.models.base import ModelConfig


class SelectableConfig(ModelConfig):
    """``fields`` restricts what the model sees of the data; ``Inputs.only`` says how a field is named."""

    fields: tuple[str, ...] | None = Field(default=None, description="user.x, history.x, item.x, pair.x; none is all")
