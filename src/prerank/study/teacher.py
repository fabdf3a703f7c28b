"""The teacher that a run's configuration names, checked before any work."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from prerank.data.loader import EncodedDataset
from prerank.errors import ConfigError, PrerankError
from prerank.publish.bundle import load_bundle
from prerank.publish.files import MANIFEST
from prerank.training.teacher import Teacher


def load_teacher(bundle: Path, described: object, data: EncodedDataset) -> Teacher:
    """The model of a finished run as teacher.

    Args:
        bundle: the run's bundle.
        described: what the run's report must say of its data set.
        data: what the student is trained on; both must read the same ids.

    Raises:
        ConfigError: there is no such bundle, it is damaged, or it was trained on other data.
    """
    try:
        loaded = load_bundle(bundle)
    except PrerankError as error:
        raise ConfigError(f"training.teacher: {error}") from None
    ours, theirs = data.encoder.state(), loaded.encoder.state()
    same_ids = ours[0].equals(theirs[0]) and ours[1] == theirs[1] and data.encoder.inputs == loaded.encoder.inputs
    if loaded.report["dataset"] != json.loads(json.dumps(described)) or not same_ids:
        raise ConfigError(
            f"training.teacher: {bundle.parent}: trained on another data set or protocol; a teacher and its student "
            "read the same rows"
        )
    return Teacher(loaded.model, hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest())
