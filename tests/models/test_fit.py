"""What FIT promises beyond the contract."""

from __future__ import annotations

import torch

from prerank.data.loader import EncodedDataset, Loader
from prerank.models.registry import create, model_config


def test_training_approaches_the_served_path(encoded: EncodedDataset) -> None:
    """The soft query hardens over the first epoch (FIT eq. 23); from then on a row is trained as it is served."""
    torch.manual_seed(3)
    small = {"embedding": 4, "embedding_std": 0.5, "tower": (24, 16), "meta_queries": 6, "attention": (8, 4)}
    model = create(model_config({"name": "fit", **small}, "test"), encoded.encoder.inputs).eval()
    batch = next(Loader(encoded, "test", 40).batches())
    with torch.no_grad():
        served = model(batch)
        gaps = [(model.relaxed(batch, epochs)[0] - served).abs().mean().item() for epochs in (0.0, 0.5, 1.0, 3.0)]
    assert gaps[0] > gaps[1] > 20 * gaps[2]
    assert gaps[2] == gaps[3]
