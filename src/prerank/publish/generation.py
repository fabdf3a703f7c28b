"""A published generation: a model and the catalogue that it encoded, which together give logits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prerank.batch import Features, Ragged
from prerank.errors import ArtefactError, RequestError
from prerank.publish.bundle import Bundle, load_bundle
from prerank.publish.checksums import Check
from prerank.publish.files import MANIFEST, replace_text
from prerank.publish.follower import UPDATES
from prerank.publish.in_time import scored_until
from prerank.publish.item_ids import Ints
from prerank.publish.many import logits_of_many
from prerank.publish.plan.base import Past, PlainPlan, Plan
from prerank.publish.plan.choice import serving_plan
from prerank.publish.store import ItemStore
from prerank.publish.update_log import writing

CURRENT = "CURRENT"
GENERATIONS = "generations"
STORE = "store"
NOTHING: Mapping[str, Any] = MappingProxyType({})

_NAME = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")


@dataclass(frozen=True)
class Generation:
    """What serving computes with. Nothing in it changes, so threads may share it; ``plan`` computes the logits."""

    name: str
    bundle: Bundle
    store: ItemStore
    plan: Plan

    @torch.inference_mode()
    def logits(
        self,
        user: Mapping[str, Any],
        context: Mapping[str, Any],
        past: Sequence[Any],
        positions: Ints,
        pairs: Mapping[str, Sequence[Any]] = NOTHING,
        until: float | None = None,
    ) -> tuple[NDArray[np.float64], int]:
        """Score items for one user.

        Args:
            user: raw values of user fields; missing ones are unknown.
            context: raw values of context fields; likewise.
            past: the behaviour history, oldest first: item ids, or mappings of raw history fields.
            positions: (K,) the candidates' positions in the store.
            pairs: (K,) raw values of each pair field that is given; missing ones are unknown.
            until: when to stop, on the clock of ``perf_counter``; the logits are then those of the first candidates.

        Returns:
            (K,) logits, fewer only if time ran out, and how many of the past items that the model sees are not in the
            store.

        Raises:
            RequestError: a field or value that the encoder refuses, or a history of the wrong form.
        """
        encoder = self.bundle.encoder
        features = encoder.encode_values("user", [user]).beside(encoder.encode_values("context", [context]))
        past = past[max(0, len(past) - encoder.history) :]
        behaviours, unknown = self._behaviours(past)
        read = self._pairs(past, positions, pairs)
        request = (features, behaviours, self.store, positions, read)
        if until is None:
            logits = self.plan.logits(*request)
        else:
            logits = scored_until(self.plan.begin(*request), len(positions), until)
        return logits.astype(np.float64), unknown

    def _pairs(self, past: Sequence[Any], positions: Ints, values: Mapping[str, Sequence[Any]]) -> Features | None:
        """K rows of pair fields, given ones and those counted from the history; None if the model reads none."""
        encoder, model = self.bundle.encoder, self.bundle.model
        given: Features = encoder.encode_pairs(values, len(positions))
        if not (model.reads_pairs and model.inputs.pair):
            return None
        if self.store.matches is None:
            return given
        if past and not isinstance(past[0], Mapping):
            seen = self.store.matched(*self.store.lookup(past, "history"))
        else:
            seen = encoder.encode_values("history", past)
        steps = Ragged(torch.arange(len(past)), torch.tensor([0, len(past)]))
        return given.beside(encoder.matches(seen, steps, self.store.matched(positions)))

    @torch.inference_mode()
    def logits_of_many(
        self,
        users: Sequence[Mapping[str, Any]],
        contexts: Sequence[Mapping[str, Any]],
        pasts: Sequence[Sequence[Any]],
        positions: Sequence[Ints],
        pairs: Sequence[Mapping[str, Sequence[Any]]] | None = None,
    ) -> tuple[list[NDArray[np.float64]], list[int]]:
        """The logits of R requests, each with its own candidates, as ``logits`` gives them one by one."""
        encoder = self.bundle.encoder
        features = encoder.encode_values("user", users).beside(encoder.encode_values("context", contexts))
        recent = [past[max(0, len(past) - encoder.history) :] for past in pasts]
        together, unknown = self._behaviours_of_many(recent)
        offsets = torch.tensor([0, *accumulate(map(len, recent))])
        steps = Ragged(torch.arange(len(together.table)), offsets)
        given = [NOTHING] * len(recent) if pairs is None else pairs
        read = [self._pairs(*each) for each in zip(recent, positions, given, strict=True)]
        model, store = self.bundle.model, self.store
        return logits_of_many(model, self.plan, store, features, together, steps, positions, read), unknown

    def _behaviours_of_many(self, pasts: Sequence[Sequence[Any]]) -> tuple[Past, list[int]]:
        """The behaviours of all requests together, and of each how many of its past items are unknown."""
        if self.store.behaviours is None or any(isinstance(behaviour, Mapping) for past in pasts for behaviour in past):
            parts = [self._behaviours(past) for past in pasts]
            tables = [self._behaviours([])[0].table, *(part.table for part, _ in parts)]
            return Past(torch.cat(tables), None), [number for _, number in parts]
        positions, known = self.store.lookup([item for past in pasts for item in past], "history")
        owners = np.repeat(np.arange(len(pasts)), [len(past) for past in pasts])
        unknown = np.bincount(owners[~known], minlength=len(pasts)).tolist()
        return self._remembered(positions, known), unknown

    def _behaviours(self, past: Sequence[Any]) -> tuple[Past, int]:
        """Past behaviours as a plan takes them, and how many of them are items that the store does not have."""
        records = [behaviour for behaviour in past if isinstance(behaviour, Mapping)]
        if records and len(records) < len(past):
            raise RequestError("history: holds both ids and mappings; give one kind")
        if records or self.store.behaviours is None:
            return Past(self._recorded(records or past), None), 0
        positions, known = self.store.lookup(past, "history")
        return self._remembered(positions, known), int((~known).sum())

    def _remembered(self, positions: Ints, known: NDArray[np.bool_]) -> Past:
        return Past(self.store.remember(positions, known), np.where(known, positions, -1))

    def _recorded(self, records: Sequence[Any]) -> torch.Tensor:
        """(L, D) embeddings of behaviours given by their fields."""
        if any(not isinstance(record, Mapping) for record in records):
            fields = ", ".join(self.bundle.encoder.schema.history)
            raise RequestError(f"history: this model remembers records; give mappings with the fields {fields}")
        features: Features = self.bundle.encoder.encode_values("history", records)
        return self.bundle.model.behaviour(features.map(lambda tensor: tensor.to(self.bundle.device)))


def open_generation(
    directory: Path,
    check: Check = "auto",
    *,
    preload: bool = False,
    device: torch.device | str = "cpu",
    planned: bool = True,
) -> Generation:
    """Open a generation after checking its files; the store is mapped, not read.

    Args:
        directory: the generation.
        check: how thoroughly files are checked (see ``prerank.publish.files.verify``).
        preload: read the whole store now, so that no request waits for the disk, and let the plan compute what it keeps
            of items, so that none waits for that either.
        device: where the model computes.
        planned: make a serving plan. Without, logits are those of the model's own functions, which a plan is compared
            with; and who asks for none does not wait for one to be made.

    Raises:
        ArtefactError: a file is missing, changed or additional, the directory holds a model without a store, or the
            store is of another layout.
    """
    bundle = load_bundle(directory, check)
    if not (directory / STORE).is_dir():
        raise ArtefactError(f"{directory}: holds a model without an item store; publish it with: prerank publish")
    store = ItemStore.open(directory / STORE, log_of(directory), preload=preload)
    model = bundle.model.to(device)
    plan = serving_plan(model, store) if planned else PlainPlan(model)
    if preload:
        with torch.inference_mode():
            plan.prepare(store)
    return Generation(store.generation, bundle, store, plan)


def is_name(name: str) -> bool:
    """Whether a generation may be called so."""
    return _NAME.fullmatch(name) is not None


def make_current(directory: Path, name: str, before: Callable[[], None] = lambda: None) -> None:
    """Have a published directory's CURRENT name another generation, in one step.

    Args:
        directory: the published directory.
        name: of a generation in it that is whole and verified.
        before: what is left to be done while no update can be written.

    Raises:
        OSError: it cannot be written; the old one stays current unless only the last sync has failed.
    """
    with writing(directory / UPDATES):
        before()
        replace_text(directory / CURRENT, f"{name}\n")


def log_of(generation: Path) -> Path | None:
    """The log of updates to an installed generation; None for one that is still being written, or lies elsewhere."""
    if generation.parent.name != GENERATIONS or not is_name(generation.name):
        return None
    return generation.parent.parent / UPDATES / f"{generation.name}.log"


def locate(directory: Path) -> Path:
    """The generation to serve: ``directory`` itself, or the one that its CURRENT names.

    Raises:
        ArtefactError: ``directory`` is neither, or CURRENT is damaged or names a generation that is not there.
    """
    if (directory / MANIFEST).exists():
        return directory
    current = directory / CURRENT
    try:
        text = current.read_bytes().decode("ascii")
    except FileNotFoundError:
        raise ArtefactError(f"{directory}: nothing is published here (no {CURRENT}); use: prerank publish") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{current}: cannot be read: {error}") from None
    name = text.removesuffix("\n")
    if not text.endswith("\n") or not is_name(name):
        raise ArtefactError(f"{current}: is damaged; write the name of one of {directory / GENERATIONS} into it")
    if not (directory / GENERATIONS / name).is_dir():
        raise ArtefactError(f"{current}: names generation {name}, which is not in {directory / GENERATIONS}")
    return directory / GENERATIONS / name
