"""The Open Inference Protocol's messages in protobuf, without generated code.

A message on the wire is numbers and types of fields; names are only for programs. The classes here belong to a pool of
their own and to a package of another name, so that a program may import a client that registers ``inference.*``, too.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "prerank.open_inference"
MESSAGES: Final[dict[str, dict[str, str]]] = {
    "ServerLiveResponse": {"live": "bool"},
    "ServerReadyResponse": {"ready": "bool"},
    "ServerMetadataResponse": {"name": "string", "version": "string", "extensions": "repeated string"},
    "ModelRequest": {"name": "string", "version": "string"},
    "ModelReadyResponse": {"ready": "bool"},
    "TensorMetadata": {"name": "string", "datatype": "string", "shape": "repeated int64"},
    "ModelMetadataResponse": {
        "name": "string",
        "versions": "repeated string",
        "platform": "string",
        "inputs": "repeated TensorMetadata",
        "outputs": "repeated TensorMetadata",
    },
    "Parameter": {
        "bool_param": "choice bool",
        "int64_param": "choice int64",
        "string_param": "choice string",
        "double_param": "choice double",
        "uint64_param": "choice uint64",
    },
    "Contents": {
        "bool_contents": "repeated bool",
        "int_contents": "repeated int32",
        "int64_contents": "repeated int64",
        "uint_contents": "repeated uint32",
        "uint64_contents": "repeated uint64",
        "fp32_contents": "repeated float",
        "fp64_contents": "repeated double",
        "bytes_contents": "repeated bytes",
    },
    "Tensor": {
        "name": "string",
        "datatype": "string",
        "shape": "repeated int64",
        "parameters": "map Parameter",
        "contents": "Contents",
    },
    "RequestedOutput": {"name": "string", "parameters": "map Parameter"},
    "ModelInferRequest": {
        "model_name": "string",
        "model_version": "string",
        "id": "string",
        "parameters": "map Parameter",
        "inputs": "repeated Tensor",
        "outputs": "repeated RequestedOutput",
        "raw_input_contents": "repeated bytes",
    },
    "ModelInferResponse": {
        "model_name": "string",
        "model_version": "string",
        "id": "string",
        "parameters": "map Parameter",
        "outputs": "repeated Tensor",
        "raw_output_contents": "repeated bytes",
    },
}
"""Fields in the order of their numbers, from 1. Messages of the same fields are one here."""

_Field = descriptor_pb2.FieldDescriptorProto
_Message = descriptor_pb2.DescriptorProto


def _described() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{PACKAGE.replace('.', '/')}.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            _add_field(message, field, number, kind)
    return file


def _add_field(message: Any, name: str, number: int, kind: str) -> None:
    how, _, of = kind.rpartition(" ")
    repeated = how in ("repeated", "map")
    field = message.field.add(
        name=name, number=number, label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    )
    if how == "map":  # on the wire: repeated messages of a key and a value
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", 1, "string")
        _add_field(entry, "value", 2, of)
        of = f"{message.name}.{entry.name}"
    if how == "choice":
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        field.oneof_index = 0
    if of[0].isupper():
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{of}"
    else:
        field.type = _Field.Type.Value(f"TYPE_{of.upper()}")


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_described().SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES}


CLASSES: Final = _classes()
"""By the names in ``MESSAGES``."""
