"""The table of keys finds what a dictionary finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerank.publish import key_table
from prerank.publish.key_table import KeyTable

LONG = st.integers(-(2**63), 2**63 - 1)


def check(keys: list[int], wanted: list[int]) -> None:
    known = {key: position for position, key in enumerate(keys)}
    positions, found = KeyTable.build(np.array(keys, dtype=np.int64)).find(np.array(wanted, dtype=np.int64))
    assert found.tolist() == [key in known for key in wanted]
    assert positions[found].tolist() == [known[key] for key in wanted if key in known]


@given(st.lists(LONG, unique=True, max_size=60), st.lists(LONG, max_size=20))
def test_finds_what_a_dictionary_finds(keys: list[int], others: list[int]) -> None:
    check(keys, keys + others + keys[::-1])


@pytest.mark.parametrize("step", [1, 7, 2**20, 2**43])
def test_regular_ids(step: int) -> None:
    keys = [number * step for number in range(5000)]
    check(keys, [key + offset for key in keys for offset in (0, 1)])


def test_keys_that_all_begin_at_the_last_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst case: probing runs past the end of the table, through every key."""
    monkeypatch.setattr(key_table, "_home", lambda keys, bits: np.full(len(keys), (1 << bits) - 1))
    check(list(range(50)), list(range(-5, 60)))


def test_probing_is_short() -> None:
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(-(2**62), 2**62, 100_000))
    table = KeyTable.build(keys)
    assert len(table.slots) < 4.01 * len(keys)
    rows = np.flatnonzero(table.slots >= 0)
    home = key_table._home(keys[table.slots[rows]], key_table._bits(len(keys)))
    # Linear probing at load a looks at (1 + 1 / (1 - a)) / 2 slots on average (Knuth, TAOCP vol. 3, 6.4).
    load = len(keys) / 2 ** key_table._bits(len(keys))
    assert np.mean(rows - home + 1) == pytest.approx((1 + 1 / (1 - load)) / 2, rel=0.03)
