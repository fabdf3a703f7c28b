"""The rankers and the field weights against DeepCTR-Torch, with weights copied, in evaluation.

What is compared is the served path: users, items and histories of one behaviour, which the oracle sees as a field of
its own. Loops in NumPy stand in for what DeepCTR-Torch does not have: COLD's weights (each from all embeddings),
Light-SE (softmax of one layer), sum-max. DIN's parts are in test_units.py; its head is none of DeepCTR-Torch's.

deepctr-torch 0.3.0 adds a linear term to DCN and AutoInt, left out here by giving it no linear columns. Its SENETLayer
ends in a ReLU, which is exchanged for the sigmoid of ours, and it has no biases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prerank.batch import Batch, Features, Ragged
from prerank.layers.similarity import SumMax
from prerank.layers.squeeze import LightSE, SENet
from prerank.models.registry import create, model_config
from prerank.schema import Inputs

deepctr: Any = pytest.importorskip("deepctr_torch.models", reason="run by make oracles")
columns: Any = pytest.importorskip("deepctr_torch.inputs")
interaction: Any = pytest.importorskip("deepctr_torch.layers.interaction")

REQUESTS, CANDIDATES, WIDTH, TOWER = 9, 5, 4, (6, 3)
FIELDS = {"u": 5, "v": 4, "past": 7, "i": 7, "j": 3}
INPUTS = Inputs({"u": 5, "v": 4}, {"i": 7, "j": 3}, ("i",), user_id="u", item_id="i", history_length=1)


def of_ctr(kind: str, *, wide: bool, **options: Any) -> Callable[[], Any]:
    """A model of DeepCTR-Torch on these fields that gives a logit."""

    def made() -> Any:
        fields = [columns.SparseFeat(name, size, WIDTH) for name, size in FIELDS.items()]
        options.setdefault("dnn_hidden_units", TOWER)
        deep = [] if options["dnn_hidden_units"] == () and kind == "WDL" else fields
        return getattr(deepctr, kind)(fields if wide else [], deep, task="regression", **options)

    return made


class Case(NamedTuple):
    """A configuration of ours and what computes the same."""

    ours: dict[str, Any]
    theirs: Callable[[], Any]


ATTENTION = {"name": "autoint", "layers": 2, "heads": 2, "head_width": WIDTH // 2}  # DeepCTR's keeps the width
OF_CTR = {"att_layer_num": 2, "att_head_num": 2}
CASES: dict[str, Case] = {
    "lr": Case({"name": "lr"}, of_ctr("WDL", wide=True, dnn_hidden_units=())),
    "fm": Case({"name": "fm"}, of_ctr("DeepFM", wide=True, dnn_hidden_units=())),
    "wide_deep": Case({"name": "wide_deep"}, of_ctr("WDL", wide=True, dnn_use_bn=True)),
    "deepfm": Case({"name": "deepfm"}, of_ctr("DeepFM", wide=True, dnn_use_bn=True)),
    "dcn": Case({"name": "dcn"}, of_ctr("DCN", wide=False, cross_num=3, dnn_use_bn=True)),
    "dcn_v2": Case(
        {"name": "dcn_v2"}, of_ctr("DCN", wide=False, cross_num=3, dnn_use_bn=True, cross_parameterization="matrix")
    ),
    "autoint": Case({**ATTENTION}, of_ctr("AutoInt", wide=False, dnn_hidden_units=(), **OF_CTR)),
    "autoint plus": Case({**ATTENTION, "tower": TOWER}, of_ctr("AutoInt", wide=True, dnn_use_bn=True, **OF_CTR)),
}


def drawn(module: Any) -> Any:
    """The module in double precision and evaluation mode, every number of it at random, BatchNorm's included."""
    module = module.double().eval()
    with torch.no_grad():
        for value in [*module.parameters(), *module.buffers()]:
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.2 if value.ndim == 1 else torch.randn_like(value) / 2)
    return module


def made(case: str) -> Any:
    torch.manual_seed(4)
    values = CASES[case].ours
    sizes = {"embedding": WIDTH} if values["name"] != "lr" else {}
    tower = {"tower": TOWER} if values["name"] in {"wide_deep", "deepfm", "dcn", "dcn_v2"} else {}
    return drawn(create(model_config({**sizes, **tower, **values}, "test"), INPUTS))


def batch() -> tuple[Batch, Tensor]:
    """Requests with candidates, and the same as rows of (u, v, past, i, j)."""
    generator = torch.Generator().manual_seed(6)

    def ids(size: int, count: int) -> Tensor:
        return torch.randint(0, size, (count,), generator=generator)

    user = {"u": ids(5, REQUESTS), "v": ids(4, REQUESTS)}
    past = {"i": ids(7, REQUESTS), "j": ids(3, REQUESTS)}
    items = {"i": ids(7, REQUESTS * CANDIDATES), "j": ids(3, REQUESTS * CANDIDATES)}
    ours = Batch(
        user=Features(user, REQUESTS),
        behaviours=Features(past, REQUESTS),
        history=Ragged(torch.arange(REQUESTS), torch.arange(REQUESTS + 1)),
        items=Features(items, REQUESTS * CANDIDATES),
        labels=torch.zeros(REQUESTS, CANDIDATES),
    )
    of_users = [column.repeat_interleave(CANDIDATES) for column in (user["u"], user["v"], past["i"])]
    return ours, torch.stack([*of_users, items["i"], items["j"]], dim=1).double()


def fill(target: Tensor, values: Tensor) -> None:
    assert target.shape == values.shape
    target.data.copy_(values)


def copied(ours: Any, theirs: Any) -> Any:
    """The oracle with our weights; every part of it is written to."""
    theirs = drawn(theirs)
    linear = getattr(ours, "linear", None)
    if ours.config.name == "lr":
        fill_tables(theirs.linear_model.embedding_dict, ours.user_fields, ours.past_fields, ours.item_fields)
        fill(theirs.out.bias, ours.bias)
        return theirs
    fill_tables(theirs.embedding_dict, ours.user_fields, ours.item_fields, ours.item_fields)
    if linear is not None:
        weights = (linear.user_weights, linear.past_weights, linear.item_weights)
        fill_tables(theirs.linear_model.embedding_dict, *weights)
    fill(theirs.out.bias, ours.output.bias if linear is None else linear.bias)
    if getattr(ours, "tower", None) is not None:
        for theirs_part, ours_part in ((theirs.dnn.linears, slice(0, None, 3)), (theirs.dnn.bn, slice(1, None, 3))):
            for part, layer in zip(theirs_part, ours.tower.layers[ours_part], strict=True):
                part.load_state_dict(layer.state_dict())
    for number, cross in enumerate(getattr(ours, "crosses", ())):
        vector = ours.config.name == "dcn"
        kernel = cross.weight.weight
        fill(theirs.crossnet.kernels[number], kernel.T if vector else kernel)
        fill(theirs.crossnet.bias[number], (cross.bias if vector else cross.weight.bias).unsqueeze(1))
    for part, layer in zip(getattr(theirs, "int_layers", ()), getattr(ours, "attention", ()), strict=True):
        pairs = ((part.W_Query, layer.query), (part.W_key, layer.key), (part.W_Value, layer.value))
        for matrix, projection in (*pairs, (part.W_Res, layer.residual)):
            fill(matrix, projection.weight.T)
    if hasattr(ours, "output"):
        deep = getattr(ours, "deep", None)
        last = [ours.output.weight] if deep is None else [ours.output.weight, deep.weight]
        fill(theirs.dnn_linear.weight, torch.cat(last, dim=1))
    return theirs


def fill_tables(theirs: Any, user: Any, past: Any, item: Any) -> None:
    tables = [*user.tables, past.tables[0], *item.tables]
    assert list(theirs) == list(FIELDS)
    for embedding, table in zip(theirs.values(), tables, strict=True):
        fill(embedding.weight, table)


def differences(ours: Tensor, theirs: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """How far apart, in parts of the size."""
    theirs = torch.as_tensor(theirs).view_as(ours)
    assert theirs.abs().mean() > 0.05
    return (ours - theirs).abs() / theirs.abs().clamp(min=1)


def check(ours: Any, forward: Callable[[], Tensor], expected: Tensor | np.ndarray[Any, Any]) -> None:
    """Equal; and no longer so when a single number of any weight of ours is another one, the one that tells most."""
    out = forward()
    assert differences(out, expected).max() < 1e-10
    out.square().sum().backward()
    for name, parameter in ours.named_parameters():
        place = int(parameter.grad.abs().argmax())
        with torch.no_grad():
            parameter.view(-1)[place] += 0.01
            assert differences(forward(), expected).max() > 1e-5, name
            parameter.view(-1)[place] -= 0.01


@pytest.mark.parametrize("case", CASES)
def test_rankers(case: str) -> None:
    ours = made(case)
    requests, rows = batch()
    with torch.no_grad():
        expected = copied(ours, CASES[case].theirs())(rows)
    check(ours, lambda: ours(requests), expected)


def embedded(fields: int) -> Tensor:
    return torch.randn(REQUESTS, fields, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_senet() -> None:
    """IntTower's alternative to Light-SE, without its biases."""
    ours = drawn(SENet(6))
    theirs = interaction.SENETLayer(6, reduction_ratio=2).double()
    theirs.excitation[3] = nn.Sigmoid()
    for place in (0, 2):
        ours.excite[place].bias = None
        fill(theirs.excitation[place].weight, ours.excite[place].weight)
    x = embedded(6)
    check(ours, lambda: ours(x.flatten(1)), theirs(x).detach().flatten(1))


def softmax(x: Sequence[float]) -> np.ndarray[Any, Any]:
    e = np.exp(np.array(x) - max(x))
    return np.asarray(e / e.sum())


@pytest.mark.parametrize("compatible", [False, True])
def test_light_se(compatible: bool) -> None:
    """In NumPy: DeepCTR-Torch has no softmax over fields. ``compatible`` is what IntTower's own code does."""
    ours = drawn(LightSE(5, compatible=compatible))
    x = embedded(5)
    weight = ours.excite.weight.detach().numpy()
    bias = np.zeros(5) if compatible else ours.excite.bias.detach().numpy()
    expected = np.zeros(x.shape)
    for row, fields in enumerate(x.numpy()):
        means = [sum(field) / WIDTH for field in fields]
        k = softmax([sum(weight[i, j] * means[j] for j in range(5)) + bias[i] for i in range(5)])
        for i in range(5):
            expected[row, i] = (1 + k[i] if compatible else k[i]) * fields[i]
    check(ours, lambda: ours(x.flatten(1)), expected.reshape(REQUESTS, -1))


def test_cold_weights() -> None:
    """In NumPy: a field's weight from all embeddings; DeepCTR-Torch's SE layer sees a mean of each field."""
    torch.manual_seed(4)
    ours = drawn(create(model_config({"name": "cold", "embedding": WIDTH, "tower": TOWER}, "test"), INPUTS)).excitation
    x = embedded(5).flatten(1)
    weight, bias = ours.weight.detach().numpy(), ours.bias.detach().numpy()
    expected = [
        [1 / (1 + np.exp(-sum(weight[f, k] * row[k] for k in range(len(row))) - bias[f])) for f in range(5)]
        for row in x.numpy()
    ]
    check(ours, lambda: torch.sigmoid(ours(x)), np.array(expected))


def test_sum_max() -> None:
    """In NumPy: it has no weights, so users' representations are what is varied."""
    holder = nn.Module()
    holder.users = nn.Parameter(torch.randn(REQUESTS, 3 * WIDTH, dtype=torch.float64))
    items, scorer = torch.randn(REQUESTS, 2 * WIDTH, dtype=torch.float64), SumMax(3, 2)
    expected = []
    for user, item in zip(holder.users.detach().numpy(), items.numpy(), strict=True):
        heads, others = user.reshape(3, WIDTH), item.reshape(2, WIDTH)
        expected.append(sum(max(sum(z[p] * other[p] for p in range(WIDTH)) for other in others) for z in heads))
    check(holder, lambda: scorer(holder.users, items), np.array(expected))
