"""The state of a run on disk: tensors as safetensors, the rest as JSON, hashed and replaced atomically."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor, nn, optim

from prerank.errors import ArtefactError

POINTER = "checkpoint.json"


def save_checkpoint(directory: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Replace the directory's checkpoint; a kill at any moment leaves the old one or the new one."""
    payload = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    digest = hashlib.sha256(payload).hexdigest()
    file = f"checkpoint-{digest[:16]}.safetensors"
    _write(directory / file, payload)
    pointer = {"file": file, "sha256": digest, "state": state}
    aside = directory / f"{POINTER}.new"
    _write(aside, json.dumps(pointer).encode())
    aside.replace(directory / POINTER)
    for stale in directory.glob("checkpoint-*.safetensors"):
        if stale.name != file:
            stale.unlink()


def load_checkpoint(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and state last saved, or None if there is no checkpoint.

    Raises:
        ArtefactError: the checkpoint is damaged.
    """
    path = directory / POINTER
    if not path.exists():
        return None
    try:
        pointer = json.loads(path.read_text(encoding="utf-8"))
        payload = (directory / pointer["file"]).read_bytes()
        expected, state = pointer["sha256"], pointer["state"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ArtefactError(f"{path}: damaged checkpoint; start again with --restart") from None
    if hashlib.sha256(payload).hexdigest() != expected:
        raise ArtefactError(f"{directory / pointer['file']}: hash differs; start again with --restart")
    return load(payload), state


def optimiser_tensors(optimiser: optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state, flat: ``{parameter number}.{name}``."""
    state: dict[int, dict[str, Tensor]] = optimiser.state_dict()["state"]
    return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def restore_optimiser(optimiser: optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo ``optimiser_tensors``."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names put under a prefix, to keep several groups in one file."""
    return {f"{prefix}:{name}": tensor for name, tensor in tensors.items()}


def group(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``prefixed``."""
    start = f"{prefix}:"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's weights and buffers on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _write(path: Path, payload: bytes) -> None:
    with path.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
