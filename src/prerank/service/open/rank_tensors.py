"""A ranking request as tensors: their names, and what becomes of them.

    candidates          [n]     BYTES or an integer type
    history             [n]     likewise: past items, oldest first
    history.FIELD       [n]     instead of history: the fields of past records
    user.FIELD          [1]     BYTES, BOOL, an integer or a float type; [n] for fields of kind multi
    context.FIELD       [1]     likewise
    columns.NAME        [n]     numbers, one a candidate
    pairs.FIELD         [n]     BYTES, BOOL, an integer or a float type, one a candidate; not for fields of kind multi

The rest are parameters of the request. The answer's tensors are ids and unknown, of the type of the candidates, and
values and scores, FP64; its parameters are generation, coverage, duplicates, unknown_history, unscored and degraded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from prerank.publish.generation import Generation
from prerank.schema import Field
from prerank.service.engine import Engine, soft_deadline
from prerank.service.messages import Milliseconds, bad_request, check_size, coverage
from prerank.service.open.messages import InferFacts, TensorMetadata
from prerank.service.open.tensors import BYTES, TYPES, Tensor
from prerank.serving.preranker import PreRanker, Ranked
from prerank.serving.request import Request

OUTPUTS = ("ids", "values", "scores", "unknown")


class RankParameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Parameters of a request."""

    k: Annotated[int, Meta(ge=1)] | None = None
    ranking: str = "score"
    unknown: Literal["drop", "error"] = "drop"
    deadline_ms: Milliseconds | None = None
    soft_deadline_ms: Milliseconds | None = None
    binary_data_output: bool | None = None


def read_parameters(given: Mapping[str, Any]) -> RankParameters:
    """The parameters of a request.

    Raises:
        RefusedError: one is unknown or of the wrong kind.
    """
    known = RankParameters.__struct_fields__
    for name in given:
        if name not in known:
            raise bad_request(f"parameters.{name}: unknown; parameters: {', '.join(known)}")
    try:
        return msgspec.convert(given, RankParameters)
    except msgspec.ValidationError as error:
        what, _, path = str(error).replace("`", "").partition(" - at $")
        raise bad_request(f"parameters{path}: {what[:1].lower()}{what[1:]}") from None


def to_request(tensors: Mapping[str, Tensor], parameters: RankParameters, generation: Generation) -> Request:
    """The request that tensors and parameters mean.

    Raises:
        RefusedError: a tensor is missing, unknown, or of a type or length that it cannot have.
    """
    schema = generation.bundle.encoder.schema
    sides = {"user": {field.name: field for field in schema.user}, "context": {f.name: f for f in schema.context}}
    values: dict[str, dict[str, Any]] = {"user": {}, "context": {}, "columns": {}, "history": {}, "pairs": {}}
    for name, tensor in tensors.items():
        side, _, field = name.partition(".")
        if name in ("candidates", "history"):
            _check_ids(tensor)
        elif not field or side not in values:
            raise bad_request(f"inputs.{name}: unknown; inputs: candidates, history, {', '.join(_patterns())}")
        elif side == "columns":
            if isinstance(tensor.values, list):
                raise bad_request(f"inputs.{name}.datatype: expected numbers, got BYTES")
            values[side][field] = tensor.values
        elif side in ("history", "pairs"):
            values[side][field] = tensor.items()
        else:
            values[side][field] = _single(tensor, sides[side].get(field))
    if "candidates" not in tensors:
        raise bad_request("inputs.candidates: is required")
    if "history" in tensors and values["history"]:
        raise bad_request("inputs.history: give ids, or the fields of records, not both")
    return Request(
        candidates=_candidates(tensors["candidates"]),
        user=values["user"],
        context=values["context"],
        history=tensors["history"].items() if "history" in tensors else _records(values["history"]),
        columns=values["columns"],
        pairs=values["pairs"],
        k=parameters.k,
        ranking=parameters.ranking,
        unknown=parameters.unknown,
    )


def to_tensors(ranked: Ranked, candidates: Tensor) -> dict[str, Tensor]:
    """The answer; ids come back as the type that they were given in."""

    def ids(name: str, values: list[Any]) -> Tensor:
        if candidates.datatype == BYTES:
            return Tensor(name, BYTES, values)
        return Tensor(name, candidates.datatype, np.array(values, dtype=TYPES[candidates.datatype]))

    tensors = (
        ids("ids", ranked.ids),
        Tensor("values", "FP64", ranked.values),
        Tensor("scores", "FP64", ranked.scores),
        ids("unknown", ranked.unknown),
    )
    return {tensor.name: tensor for tensor in tensors}


def wanted_outputs(names: Sequence[str]) -> Sequence[str]:
    """The outputs that are asked for; all if none is named.

    Raises:
        RefusedError: one is unknown, or named twice.
    """
    for number, name in enumerate(names):
        if name not in OUTPUTS:
            raise bad_request(f"outputs.{name}: unknown; outputs: {', '.join(OUTPUTS)}")
        if name in names[:number]:
            raise bad_request(f"outputs.{name}: is there twice")
    return names or OUTPUTS


def rank_tensors(
    engine: Engine, ranker: PreRanker, tensors: Mapping[str, Tensor], parameters: RankParameters, arrived: float
) -> tuple[InferFacts, dict[str, Tensor]]:
    """Answer a request that arrived then, on the clock of ``perf_counter``, in a thread of the desk.

    Raises:
        RefusedError, RequestError: it cannot be answered as it stands; the field is named.
    """
    until = soft_deadline(arrived, parameters.soft_deadline_ms, parameters.deadline_ms)
    asked = to_request(tensors, parameters, ranker.generation)
    check_size(asked, engine.config.limits, "inputs.")
    ranked = engine.rank(ranker, asked, until)
    share = coverage(ranked, len(asked.candidates))
    counts = (ranked.duplicates, ranked.unknown_history, ranked.unscored)
    facts = InferFacts(ranked.generation, share, *counts, ranked.degraded)
    return facts, to_tensors(ranked, tensors["candidates"])


def describe(generation: Generation) -> tuple[list[TensorMetadata], list[TensorMetadata]]:
    """What a model's metadata says of inputs and outputs. Columns are free, and so not in it."""
    schema = generation.bundle.encoder.schema
    ids = "INT64" if generation.store.kind == "int" else BYTES

    def tensor(name: str, datatype: str, length: int = -1) -> TensorMetadata:
        return TensorMetadata(name, datatype, [length])

    def field(side: str, of: Field, length: int) -> TensorMetadata:
        return tensor(f"{side}.{of.name}", "FP64" if of.kind == "numeric" else BYTES, length)

    inputs = [tensor("candidates", ids)]
    if generation.store.behaviours is not None:
        inputs.append(tensor("history", ids))
    inputs += [field("history", each, -1) for each in schema.history_fields if each.kind != "multi"]
    inputs += [field("pairs", each, -1) for each in schema.given_pairs if each.kind != "multi"]
    for side, fields in (("user", schema.user), ("context", schema.context)):
        inputs += [field(side, each, -1 if each.kind == "multi" else 1) for each in fields]
    outputs = [tensor(name, ids if name in ("ids", "unknown") else "FP64") for name in OUTPUTS]
    return inputs, outputs


def _patterns() -> list[str]:
    return [f"{side}.NAME" for side in ("history", "user", "context", "columns", "pairs")]


def _candidates(tensor: Tensor) -> Sequence[Any] | NDArray[Any]:
    """Ids as what is looked up soonest."""
    if isinstance(tensor.values, list) or tensor.datatype != "INT64":
        return tensor.items()
    return tensor.values.astype(np.int64)  # of this machine's order, in a place of its own


def _check_ids(tensor: Tensor) -> None:
    if tensor.datatype in ("BOOL", "UINT64") or tensor.datatype.startswith("FP"):
        raise bad_request(f"inputs.{tensor.name}.datatype: ids are INT64 or BYTES, got {tensor.datatype}")


def _single(tensor: Tensor, field: Field | None) -> Any:
    """The value of a field; the encoder refuses fields that there are not."""
    values = tensor.items()
    if field is not None and field.kind == "multi":
        return values
    if len(values) != 1:
        raise bad_request(f"inputs.{tensor.name}.shape: expected one value, got {len(values)}")
    return values[0]


def _records(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Records from the columns of their fields."""
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        names = ", ".join(f"history.{name}" for name in columns)
        raise bad_request(f"inputs.history: {names} are of different lengths")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
