"""One model that trains a few steps whenever it is told: a process of its own, so that its peak memory is its own.

Ours trains as ``prerank fit`` does, data loading included. A peer's model (DeepCTR-Torch, torch-rechub) gets the same
rows as padded tensors that were made before the clock starts, and takes forward pass, binary cross-entropy, backward
pass and Adam: the steps of its own training loop, without that loop's data loading and metrics. Peers attend to and
embed single-valued fields only, which is all that they take in this form; this is less work than ours.

Each line on standard input is a number of steps, or 0 for the AUC on the validation part and the peak memory; each
answer is a line of JSON.

Usage: python -m prerank.bench.training_worker '{"way": "fit", "data": "data/ml-1m", "batch_rows": 2048, ...}'
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prerank.batch import Batch, Ragged
from prerank.data.encoder import Encoder
from prerank.data.loader import EncodedDataset, Loader
from prerank.data.log import Dataset
from prerank.evaluation.metrics import auc
from prerank.training.config import RunConfig, TrainingConfig
from prerank.training.memory import keep_freed_memory
from prerank.training.trainer import Quiet, TrainingRun

EMBEDDING, TOWER, ATTENTION = 16, [300, 300, 128], [64, 16]

Padded = dict[str, Tensor]


def main() -> None:
    """Answer until standard input ends."""
    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    dataset = Dataset.load(Path(order["data"]))
    data = EncodedDataset(dataset, Encoder.fit(dataset))
    way = _peer(order, data) if ":" in order["way"] else _ours(order, data)
    for line in sys.stdin:
        print(json.dumps(way(int(line))), flush=True)  # noqa: T201 - it is the answer


def _ours(order: dict[str, Any], data: EncodedDataset) -> Callable[[int], dict[str, Any]]:
    keep_freed_memory()
    training = TrainingConfig(batch_rows=order["batch_rows"], device="cpu")
    config = RunConfig(data=Path(order["data"]), model={"name": order["way"]}, training=training, seed=order["seed"])
    run = TrainingRun(config, data, Path(tempfile.gettempdir()), Quiet(), None)
    batches, done = _endless(run.loader), 0

    def answer(steps: int) -> dict[str, Any]:
        nonlocal done
        if not steps:
            run.model.eval()
            return _quality(data, order, run.model)
        run.model.train()
        begun, rows = time.perf_counter(), 0
        for batch in islice(batches, steps):
            run.step(batch, done / len(run.loader))
            done, rows = done + 1, rows + batch.labels.numel()
        return {"rows": rows, "seconds": time.perf_counter() - begun}

    return answer


def _peer(order: dict[str, Any], data: EncodedDataset) -> Callable[[int], dict[str, Any]]:
    package, name = order["way"].split(":")
    torch.manual_seed(order["seed"])
    model, inputs_of = {"deepctr": _of_deepctr, "rechub": _of_rechub}[package](name, data)
    optimiser = torch.optim.Adam(model.parameters(), lr=TrainingConfig().learning_rate)
    batches = _endless(Loader(data, "train", order["batch_rows"], order["seed"]))
    length = data.encoder.history

    def answer(steps: int) -> dict[str, Any]:
        if not steps:
            model.eval()
            return _quality(data, order, lambda batch: model(inputs_of(_padded(batch, length))))
        model.train()
        ready = [(inputs_of(_padded(batch, length)), batch.labels.flatten()) for batch in islice(batches, steps)]
        begun, rows = time.perf_counter(), 0
        for given, labels in ready:
            loss = F.binary_cross_entropy(model(given).flatten(), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rows += len(labels)
        return {"rows": rows, "seconds": time.perf_counter() - begun}

    return answer


def _of_deepctr(name: str, data: EncodedDataset) -> tuple[nn.Module, Callable[[Padded], Any]]:
    """DIN; DeepCTR-Torch has no DSSM."""
    made, columns = import_module("deepctr_torch.models"), import_module("deepctr_torch.inputs")
    user, item, past = _fields(data)
    fields = [columns.SparseFeat(field, size, EMBEDDING) for field, size in {**user, **item}.items()]
    for field in past:
        own = columns.SparseFeat(f"hist_{field}", item[field], EMBEDDING, embedding_name=field)
        fields.append(columns.VarLenSparseFeat(own, data.encoder.history, length_name="length"))
    options = {"dnn_hidden_units": TOWER, "att_hidden_size": ATTENTION, "l2_reg_embedding": 0, "att_activation": "Dice"}
    model: nn.Module = getattr(made, name)(fields, past, **options)
    index: Any = model.feature_index

    def inputs(batch: Padded) -> Tensor:
        width = max(stop for _, stop in index.values())
        x = torch.zeros(len(batch["length"]), width)
        for field, (start, stop) in index.items():
            x[:, start:stop] = batch[field].view(len(x), -1)
        return x

    return model, inputs


def _of_rechub(name: str, data: EncodedDataset) -> tuple[nn.Module, Callable[[Padded], Any]]:
    """DIN or DSSM, the latter with the mean of the history among its user features."""
    features = import_module("torch_rechub.basic.features")
    user, item, past = _fields(data)
    of_user = [features.SparseFeature(field, size, EMBEDDING) for field, size in user.items()]
    of_item = {field: features.SparseFeature(field, size, EMBEDDING) for field, size in item.items()}
    pooling = "concat" if name == "DIN" else "mean"
    histories = [
        features.SequenceFeature(f"hist_{field}", item[field], EMBEDDING, pooling, shared_with=field, padding_idx=0)
        for field in past
    ]
    model: nn.Module
    if name == "DSSM":
        tower = {"dims": TOWER, "activation": "relu"}
        made = import_module("torch_rechub.models.matching").DSSM
        model = made(of_user + histories, list(of_item.values()), dict(tower), dict(tower))
    else:
        target = [of_item.pop(field) for field in past]
        attention = {"dims": ATTENTION, "activation": "dice", "use_softmax": False}
        made = import_module("torch_rechub.models.ranking").DIN
        model = made(of_user + list(of_item.values()), histories, target, {"dims": TOWER}, attention)
    return model, lambda batch: batch


def _fields(data: EncodedDataset) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """Sizes of the single-valued categorical fields of user and item, and which of the latter histories have."""
    inputs = data.encoder.inputs
    user, item = (
        {name: int(size) for name, size in sizes.items() if isinstance(size, int) and _single(table.columns[name])}
        for sizes, table in ((inputs.user, data.users), (inputs.item, data.items))
        if all(name in table.columns for name in sizes)
    )
    return user, item, [name for name in inputs.history if name in item]


def _single(column: Tensor | Ragged) -> bool:
    return isinstance(column, Tensor) and not column.is_floating_point()


def _padded(batch: Batch, length: int) -> Padded:
    """Rows of one candidate each, histories filled up with zeros at their end."""
    count, steps = batch.labels.shape[1], batch.history
    single = {name: column for name, column in batch.user.columns.items() if isinstance(column, Tensor)}
    padded = {name: column.repeat_interleave(count) for name, column in single.items()}
    padded |= {name: column for name, column in batch.items.columns.items() if isinstance(column, Tensor)}
    owners, places = steps.owners, torch.arange(len(steps.values)) - steps.offsets[:-1].index_select(0, steps.owners)
    for name, column in batch.behaviours.columns.items():
        if isinstance(column, Tensor):
            past = column.new_zeros(len(batch.labels), length)
            past[owners, places] = column[steps.values]
            padded[f"hist_{name}"] = past.repeat_interleave(count, 0)
    return {**padded, "length": steps.lengths.repeat_interleave(count)}


def _endless(loader: Loader) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from loader.batches(epoch)
        epoch += 1


@torch.no_grad()
def _quality(data: EncodedDataset, order: dict[str, Any], score: Callable[[Batch], Tensor]) -> dict[str, Any]:
    batches = list(islice(Loader(data, "valid", order["batch_rows"], order["seed"]).batches(), order["batches"]))
    labels = np.concatenate([batch.labels.flatten().numpy() for batch in batches])
    scores = np.concatenate([score(batch).flatten().numpy() for batch in batches])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"auc": float(auc(labels, scores)), "rows": len(labels), "peak_mib": peak}


if __name__ == "__main__":
    main()
