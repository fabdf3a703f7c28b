"""Strict, frozen configurations: read from YAML, changed by dotted ``key=value`` pairs, checked before any work."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from prerank.errors import ConfigError

T = TypeVar("T", bound="Strict")


class Strict(BaseModel):
    """Base of all configurations: immutable, and a key that nothing reads is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())


def parse(cls: type[T], values: Mapping[str, Any], origin: str) -> T:
    """Validate ``values`` as ``cls``.

    Args:
        cls: the configuration class.
        values: plain Python values, as YAML or JSON gives them.
        origin: what to call the place in messages, usually the file's path.

    Raises:
        ConfigError: one line with the dotted key, what is wrong and, for an unknown key, the nearest known one.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(cls, error)}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        ConfigError: the file is missing or unreadable, is not YAML, or its top level is not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: a YAML file is expected: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML: {reason}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: the top level must be a mapping of keys to values")
    return values


def override(values: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Apply ``a.b=c`` changes to a nested mapping; the values are read as YAML.

    >>> override({"model": {"name": "fit"}}, ["model.meta_queries=32"])
    {'model': {'name': 'fit', 'meta_queries': 32}}

    Raises:
        ConfigError: a change without ``=``, or one that goes through a value that is not a mapping.
    """
    result: dict[str, Any] = _copy(values)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {change}: expected key=value, for example training.seed=2")
        node = result
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {change}: {parent} is a single value and has no keys")
        try:
            node[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {change}: the value is not valid YAML") from None
    return result


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _explain(cls: type[BaseModel], error: ValidationError) -> str:
    """The first problem of a validation, in words."""
    problems = error.errors(include_url=False)
    # A misspelled required key is both unknown and missing; the former says what to mend.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    place = ".".join(str(part) for part in first["loc"]) or "configuration"
    if first["type"] == "extra_forbidden":
        unknown = str(first["loc"][-1])
        known = _known_keys(cls, first["loc"][:-1])
        near = difflib.get_close_matches(unknown, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        text = f"{place}: unknown key; {hint}"
    elif first["type"] == "missing":
        text = f"{place}: is required"
    else:
        message = first["msg"].removeprefix("Value error, ")
        given = first.get("input")
        shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) or given is None else ""
        text = f"{place}: {message[:1].lower()}{message[1:]}{shown}"
    more = len(problems) - 1
    return text + (f" (and {more} more problem{'s' if more > 1 else ''})" if more else "")


def _known_keys(cls: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys that the model at ``location`` below ``cls`` accepts."""
    current: type[BaseModel] = cls
    for part in location:
        field = current.model_fields.get(str(part))
        if field is None:
            continue  # a position in a list, or the tag of a union
        inner = _model_in(field.annotation)
        if inner is None:
            break
        current = inner
    return sorted(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first configuration class inside an annotation such as ``tuple[Field, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
