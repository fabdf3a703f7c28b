"""An overlay says what a dictionary would say."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from prerank.publish.overlay import Overlay
from prerank.publish.precision import Vectors
from prerank.publish.store_files import Encoded

BASE = 6  # items of the store below, with keys 0 to 5
KEYS = list(range(12))
CHANGES = st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from(KEYS), min_size=1, max_size=6)), max_size=12)


def items(values: list[int]) -> Encoded:
    column = torch.tensor(values, dtype=torch.float32)[:, None]
    return Encoded(np.array(values, dtype=np.uint16)[:, None], Vectors.store(column, "int8"), Vectors(column))


def states(changes: list[tuple[bool, list[int]]]) -> list[tuple[Overlay, dict[int, int]]]:
    """The overlay and what is expected after each change; values are counted up, so that no two are equal."""
    overlay, expected, value = Overlay(), dict.fromkeys(range(BASE), -1), 0
    found = [(overlay, dict(expected))]
    for deletes, keys in changes:
        array = np.array(keys)
        if deletes:
            overlay = overlay.deleted(array)
            for key in keys:
                expected.pop(key, None)
        else:
            values = list(range(value, value + len(keys)))
            overlay = overlay.upserted(array, items(values), [str(key) for key in keys], [f"t{v}" for v in values])
            expected |= dict(zip(keys, values, strict=True))
            value += len(keys)
        found.append((overlay, dict(expected)))
    return found


@given(CHANGES)
def test_every_overlay_ever_made_still_says_what_a_dictionary_says(changes: list[tuple[bool, list[int]]]) -> None:
    for overlay, expected in states(changes):
        keys = np.array(KEYS)
        positions, found = np.minimum(keys, BASE - 1), keys < BASE
        overlay.change(keys, positions, found, BASE)
        assert found.tolist() == [key in expected for key in KEYS]
        for key, position in zip(keys[found].tolist(), positions[found].tolist(), strict=True):
            if position < BASE:
                assert expected[key] == -1 and position == key
            else:
                place = position - BASE
                assert overlay.items is not None and overlay.items.behaviours is not None
                assert overlay.items.index[place, 0] == overlay.items.behaviours.values[place, 0] == expected[key]
                assert round(overlay.items.rows.take(torch.tensor([place])).item()) == expected[key]
                assert (overlay.ids[place], overlay.titles[place]) == (str(key), f"t{expected[key]}")


@given(CHANGES)
def test_what_is_live_and_what_is_changed(changes: list[tuple[bool, list[int]]]) -> None:
    overlay, expected = states(changes)[-1]
    places, keys = overlay.live()
    assert dict(zip(keys.tolist(), places.tolist(), strict=True)) == {k: v for k, v in expected.items() if v >= 0}
    assert places.tolist() == sorted(places.tolist())
    touched = {key for _, keys in changes for key in keys}
    assert overlay.changed(np.array(KEYS)).tolist() == [key in touched for key in KEYS]


def test_layers_stay_few() -> None:
    overlay = Overlay()
    for key in range(3000):
        overlay = overlay.upserted(np.array([key]), items([key]), [key], [None])
        assert len(overlay.layers) <= 4
