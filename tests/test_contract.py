"""What every model promises, checked over the registry and over every variant of FIT."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.small import small_values
from torch import Tensor

from prerank.batch import Batch, Features, History, Ragged
from prerank.data.loader import EncodedDataset, Loader
from prerank.models.base import PreRankingModel
from prerank.models.registry import MODELS, create, model_config

SMALL: dict[str, Any] = {"embedding": 4, "embedding_std": 0.5, "tower": (24, 16)}
FIT = {**SMALL, "name": "fit", "meta_queries": 6, "attention": (8, 4), "head_width": 8}
INT_TOWER = {**SMALL, "name": "int_tower", "heads": 3, "head_width": 4}
RANK_TOWER = {**SMALL, "name": "rank_tower", "head_width": 8}
WIDE = {"embedding": 4, "embedding_std": 0.5}  # without a tower
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: small_values(name, **SMALL) for name in MODELS},
    "fit": FIT,
    "dcn_v2 stacked, low rank": {**SMALL, "name": "dcn_v2", "structure": "stacked", "rank": 3},
    "autoint": {**WIDE, "name": "autoint", "heads": 2, "head_width": 3, "layers": 2},
    "autoint plus": {**SMALL, "name": "autoint", "heads": 2, "head_width": 3, "layers": 2},
    "edcn": {**WIDE, "name": "edcn", "layers": 2},
    "edcn sum": {**WIDE, "name": "edcn", "layers": 2, "bridge": "sum"},
    "edcn concat": {**WIDE, "name": "edcn", "layers": 2, "bridge": "concat"},
    "edcn attention": {**WIDE, "name": "edcn", "layers": 2, "bridge": "attention"},
    "int_tower": INT_TOWER,
    "rank_tower": RANK_TOWER,
    "two_tower dot": {**SMALL, "name": "two_tower", "head": "dot"},
    "two_tower printed": {**SMALL, "name": "two_tower", "head": "printed"},
    "two_tower bias": {**SMALL, "name": "two_tower", "head": "bias"},
    "two_tower recency": {**SMALL, "name": "two_tower", "history": "recency"},
    "two_tower linear": {**SMALL, "name": "two_tower", "output": "linear"},
    "fit positions": {**FIT, "positions": True},
    "fit w/o MQM, positions": {**FIT, "meta_queries": 0, "positions": True},
    "fit revival": {**FIT, "revival": True},
    "fit w/o MQM": {**FIT, "meta_queries": 0},
    "fit w/o LSS": {**FIT, "scorer": "cosine"},
    "fit w SumMax": {**FIT, "scorer": "sum_max"},
    "fit w FC": {**FIT, "scorer": "fc"},
    "fit w/o self-attention": {**FIT, "self_attention": False},
    "fit raw keys": {**FIT, "keys": "raw"},
    "fit soft only": {**FIT, "query": "soft"},
    "fit hard only": {**FIT, "query": "hard"},
    "fit uneven heads": {**FIT, "user_heads": 3, "item_heads": 2},
    "din": {**SMALL, "name": "din", "attention": (8, 4)},
    "din positions": {**SMALL, "name": "din", "attention": (8, 4), "positions": True},
    "dien code": {**SMALL, "name": "dien", "augru": "code", "auxiliary_weight": 0.0},
    "fit dien": {**FIT, "interaction": "dien"},
    "fit dien code": {**FIT, "interaction": "dien", "augru": "code", "auxiliary_weight": 0.0, "scorer": "fc"},
    "fit fm": {**FIT, "interaction": "deepfm", "deep": ()},
    "fit deepfm": {**FIT, "interaction": "deepfm", "deep": (8, 4)},
    "fit can": {**FIT, "interaction": "can", "co_action": (4, 3)},
    "fit w MLP": {**FIT, "scorer": "mlp"},
    "fit w max cosine": {**FIT, "scorer": "max_cosine"},
    "fit positions, one cosine": {**FIT, "positions": True, "scorer": "max_cosine", "user_heads": 1, "item_heads": 1},
    "fit w dot": {**FIT, "scorer": "dot"},
    "dat dot": {**SMALL, "name": "dat", "head": "dot"},
    "int_tower SENET": {**INT_TOWER, "se": "senet"},
    "int_tower w/o SE": {**INT_TOWER, "se": "none"},
    "int_tower last layer": {**INT_TOWER, "user_layers": "last"},
    "int_tower FC": {**INT_TOWER, "scorer": "concat"},
    "int_tower dot": {**INT_TOWER, "scorer": "dot"},
    "int_tower cosine": {**INT_TOWER, "scorer": "cosine"},
    "int_tower max cosine": {**INT_TOWER, "scorer": "max_cosine"},
    "int_tower as the code": {**INT_TOWER, "official_compat": True},
    "rank_tower listwise": {**RANK_TOWER, "listwise": 0.5},
    "rank_tower cosine": {**RANK_TOWER, "scorer": "cosine"},
    "hit FC": {**SMALL, "name": "hit", "scorer": "fc"},
}


@pytest.fixture(params=list(VARIANTS))
def model(request: pytest.FixtureRequest, encoded: EncodedDataset) -> PreRankingModel:
    """A model whose parameters do something and whose BatchNorm statistics have seen data, in eval mode."""
    torch.manual_seed(5)
    made = create(model_config(VARIANTS[request.param], "test"), encoded.encoder.inputs)
    for parameter in made.parameters():
        if not parameter.any():  # what starts at zero would be tested as if it were not there
            torch.nn.init.normal_(parameter, std=0.3)
    made.train()
    for batch in Loader(encoded, "train", 256, seed=0).batches():
        made.relaxed(batch, 0.5)
    return made.eval()


@pytest.fixture
def batch(encoded: EncodedDataset) -> Batch:
    return next(Loader(encoded, "test", 40).batches())


@torch.no_grad()
def grid(model: PreRankingModel, batch: Batch) -> Tensor:
    """Every request of a batch against every item of it, by the three functions of the contract: (B, B * C)."""
    users = model.user(batch.user, model.history(batch))
    return model.score(users.unsqueeze(1), model.item(batch.items))


def own(grid: Tensor, batch: Batch) -> Tensor:
    """From a grid, each request's own candidates: (B, C)."""
    requests, candidates = batch.labels.shape
    return grid.view(requests, requests, candidates)[torch.arange(requests), torch.arange(requests)]


def single(batch: Batch, request: int, padding: int = 0) -> Batch:
    """One request of a batch; ``padding`` unused behaviours are added to the table."""
    candidates = batch.labels.shape[1]
    places = torch.arange(request * candidates, (request + 1) * candidates)
    extra = torch.zeros(padding, dtype=torch.int64)
    rows = torch.cat([torch.arange(batch.behaviours.rows), extra])
    return Batch(
        user=batch.user.take(torch.tensor([request])),
        behaviours=batch.behaviours.take(rows),
        history=batch.history.take(torch.tensor([request])),
        items=batch.items.take(places),
        labels=batch.labels[request : request + 1],
    )


def test_served_grid_equals_rows(model: PreRankingModel, batch: Batch) -> None:
    with torch.no_grad():
        torch.testing.assert_close(own(grid(model, batch), batch), model(batch), rtol=1e-5, atol=1e-5)


def test_score_broadcasts_a_request_over_candidates(model: PreRankingModel, batch: Batch) -> None:
    """(1, Wu) with (K, Wv), as in serving, gives the row of the full grid."""
    every = grid(model, batch)
    with torch.no_grad():
        users, items = model.user(batch.user, model.history(batch)), model.item(batch.items)
        torch.testing.assert_close(model.score(users[3:4], items), every[3], rtol=1e-5, atol=1e-5)
        in_batch = model.score(users.unsqueeze(1), items.unsqueeze(0))
    torch.testing.assert_close(in_batch, every, rtol=1e-5, atol=1e-5)


def test_one_by_one_equals_batch_whatever_the_padding(model: PreRankingModel, batch: Batch) -> None:
    with torch.no_grad():
        together = model(batch)
        for request in range(0, len(together), 7):
            alone = model(single(batch, request, padding=request))
            torch.testing.assert_close(alone[0], together[request], rtol=1e-5, atol=1e-5)


def test_score_is_independent_of_other_candidates(model: PreRankingModel, batch: Batch) -> None:
    with torch.no_grad():
        users, items = model.user(batch.user, model.history(batch)), model.item(batch.items)
        order = torch.randperm(len(items))
        every = model.score(users[:1], items)
        torch.testing.assert_close(model.score(users[:1], items[order]), every[order], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.score(users[:1], items[5:6]), every[5:6], rtol=1e-5, atol=1e-5)


def test_empty_history_and_unknown_values_are_served(model: PreRankingModel, encoded: EncodedDataset) -> None:
    """A new user without behaviours, against an item whose fields are all unknown."""
    encoder = encoded.encoder
    history = History(
        torch.zeros(0, model.behaviour_width),
        Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)),
    )
    with torch.no_grad():
        user = model.user(encoder.encode_values("user", [{"user_id": "nobody"}]), history)
        logit = model.score(user, model.item(encoder.encode_values("item", [{}])))
    assert logit.shape == (1,)
    assert torch.isfinite(logit).all()


def test_every_parameter_learns(model: PreRankingModel, encoded: EncodedDataset) -> None:
    """Each parameter gets a gradient in training, except an embedding row that no row of the data uses."""
    model.train()
    for batch in Loader(encoded, "train", 512, seed=1).batches():
        logits, extra = model.relaxed(batch, 0.3)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels)
        (loss + sum(extra.values(), torch.zeros(()))).backward()
    silent = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert not silent


def test_weights_restore_the_scores(model: PreRankingModel, batch: Batch, encoded: EncodedDataset) -> None:
    torch.manual_seed(99)
    twin = create(model.config, encoded.encoder.inputs)
    twin.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(twin.eval()(batch), model(batch))


def test_index_columns_are_whole_and_within_reach(model: PreRankingModel, batch: Batch) -> None:
    with torch.no_grad():
        items = model.item(batch.items)
    leading = items[:, : model.index_columns]
    assert torch.equal(leading, leading.round())
    assert bool((leading >= 0).all())


def test_trained_path_is_autocast_safe(model: PreRankingModel, batch: Batch) -> None:
    """bfloat16 autocast changes logits by rounding only."""
    with torch.no_grad():
        exact = model.relaxed(batch, 1.0)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model.relaxed(batch, 1.0)[0]
    assert torch.isfinite(rounded).all()
    assert np.corrcoef(exact.flatten().numpy(), rounded.float().flatten().numpy())[0, 1] > 0.9


def test_features_without_rows_are_harmless(model: PreRankingModel, encoded: EncodedDataset) -> None:
    """Encoding an empty chunk of a catalogue gives no rows."""
    nothing: Features = encoded.items.take(torch.zeros(0, dtype=torch.int64))
    with torch.no_grad():
        assert model.item(nothing).shape[0] == 0
