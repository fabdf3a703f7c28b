"""A batch that models are tried on."""

from __future__ import annotations

import pytest

from prerank.batch import Batch
from prerank.data.loader import EncodedDataset, Loader


@pytest.fixture
def batch(encoded: EncodedDataset) -> Batch:
    """Requests with a positive and a negative each, of several categories."""
    return next(Loader(encoded, "train", 40, seed=2).batches())
