"""Tensors of the Open Inference Protocol, in JSON and in bytes (its binary tensor data extension)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from prerank.service.messages import bad_request
from prerank.service.open.messages import InferInput

TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
BYTES = "BYTES"
SIZE = "binary_data_size"
_LENGTH = struct.Struct("<I").unpack_from
ELEMENTS = {"b": list[bool], "i": list[int], "u": list[int], "f": list[float]}


@dataclass(frozen=True)
class Tensor:
    """A tensor of one dimension.

    Attributes:
        name: of the tensor.
        datatype: a key of ``TYPES``, or BYTES.
        values: of that type; texts where it is BYTES.
    """

    name: str
    datatype: str
    values: NDArray[Any] | list[str]

    def __len__(self) -> int:
        return len(self.values)

    def items(self) -> list[Any]:
        """The values as Python's own."""
        return self.values if isinstance(self.values, list) else self.values.tolist()


def read_tensors(inputs: Sequence[InferInput], binary: memoryview) -> dict[str, Tensor]:
    """The tensors of a request, by name.

    Args:
        inputs: what the JSON part says.
        binary: the bytes after it, which the inputs with a size share in their order.

    Raises:
        RefusedError: a tensor is not what its shape and type say, or bytes are missing or left over.
    """
    tensors: dict[str, Tensor] = {}
    for each in inputs:
        place = check_tensor(tensors, each.name, each.datatype)
        size = each.parameters.get(SIZE)
        unknown = next((name for name in each.parameters if name != SIZE), None)
        if unknown is not None:
            raise bad_request(f"{place}.parameters.{unknown}: unknown; parameters of an input: {SIZE}")
        if (size is None) == (each.data is None):
            raise bad_request(f"{place}.data: is required, or else the parameter {SIZE}, and not both")
        if size is None:
            values = _from_json(each.data or [], each.datatype, place)
        else:
            if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary):
                raise bad_request(f"{place}.parameters.{SIZE}: {size!r}, and {len(binary)} bytes are left")
            values = from_bytes(binary[:size], each.datatype, place)
            binary = binary[size:]
        tensors[each.name] = shaped(each.name, each.datatype, each.shape, values)
    if len(binary):
        raise bad_request(f"body: {len(binary)} bytes are left after the last input's {SIZE}")
    return tensors


def check_tensor(tensors: Mapping[str, Tensor], name: str, datatype: str) -> str:
    """Refuse another tensor of the same name, and an unknown type.

    Returns:
        how messages name the tensor.

    Raises:
        RefusedError: so it is.
    """
    place = f"inputs.{name}"
    if name in tensors:
        raise bad_request(f"{place}: is there twice")
    if datatype != BYTES and datatype not in TYPES:
        raise bad_request(f"{place}.datatype: {datatype!r} is not one of {', '.join([BYTES, *TYPES])}")
    return place


def shaped(name: str, datatype: str, shape: Sequence[int], values: NDArray[Any] | list[str]) -> Tensor:
    """A tensor, whose shape is a vector's and as long as its values.

    Raises:
        RefusedError: it is not.
    """
    if len(shape) != 1 and not (len(shape) == 2 and shape[0] == 1):  # a batch of one is a vector, too
        raise bad_request(f"inputs.{name}.shape: expected [n] or [1, n], got {list(shape)}")
    count = prod(shape)
    if len(values) != count:
        raise bad_request(f"inputs.{name}.shape: {list(shape)} means {count} values, the data holds {len(values)}")
    return Tensor(name, datatype, values)


def from_bytes(data: memoryview, datatype: str, place: str) -> NDArray[Any] | list[str]:
    """The values in a tensor's bytes.

    Args:
        data: the bytes.
        datatype: a key of ``TYPES``, or BYTES.
        place: how messages name the tensor.

    Raises:
        RefusedError: they are not whole values of that type.
    """
    if datatype == BYTES:
        return _texts(data, place)
    kind = TYPES[datatype]
    if len(data) % kind.itemsize:
        raise bad_request(f"{place}: {len(data)} bytes are not whole values of {datatype}")
    if datatype == "BOOL":
        return np.frombuffer(data, np.uint8).astype(np.bool_)
    return np.frombuffer(data, kind)


def to_texts(parts: Sequence[bytes], place: str) -> list[str]:
    """The values of a tensor of type BYTES.

    Raises:
        RefusedError: one is not UTF-8.
    """
    texts: list[str] = []
    try:
        texts.extend(part.decode() for part in parts)
    except UnicodeDecodeError:
        raise bad_request(f"{place}: value {len(texts)} is not UTF-8") from None
    return texts


def to_bytes(tensor: Tensor) -> bytes:
    """A tensor's values as the binary extension has them."""
    if not isinstance(tensor.values, list):
        return tensor.values.astype(TYPES[tensor.datatype]).tobytes()
    texts = [text.encode() for text in tensor.values]
    return b"".join([part for text in texts for part in (len(text).to_bytes(4, "little"), text)])


def _from_json(data: list[Any], datatype: str, place: str) -> NDArray[Any] | list[str]:
    if len(data) == 1 and isinstance(data[0], list):  # a batch of one
        data = data[0]
    kind = TYPES.get(datatype)
    try:
        values: list[Any] = msgspec.convert(data, ELEMENTS[kind.kind] if kind else list[str])
    except msgspec.ValidationError as error:
        what, _, path = str(error).replace("`", "").partition(" - at $")
        raise bad_request(f"{place}.data{path}: {what[:1].lower()}{what[1:]}, for {datatype}") from None
    if kind is None:
        return values
    try:
        with np.errstate(over="ignore"):  # what becomes infinite is refused where finite numbers are wanted
            return np.array(values, dtype=kind)
    except OverflowError:
        raise bad_request(f"{place}.data: a number is beyond {datatype}") from None


def _texts(data: memoryview, place: str) -> list[str]:
    """Texts, each behind its length in four bytes."""
    raw, parts = bytes(data), list[bytes]()
    at, end = 0, len(raw)
    while at < end:
        begin = at + 4
        at = begin + (_LENGTH(raw, at)[0] if begin <= end else 0)
        if at > end:
            raise bad_request(f"{place}: value {len(parts)} goes beyond the tensor's bytes")
        parts.append(raw[begin:at])
    return to_texts(parts, place)
