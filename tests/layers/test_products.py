"""Products of small matrices within flat arrays against NumPy."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prerank.layers.compiled.products import add_product


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 13), st.integers(0, 9), st.integers(1, 140), st.booleans(), st.integers(0, 3))
def test_equals_numpy(rows: int, depth: int, width: int, transposed: bool, ahead: int) -> None:
    """Every width and number of rows, either order of the first matrix, a gap before each; nothing else is touched."""
    rng = np.random.default_rng([rows, depth, width])
    a = rng.normal(size=(depth, rows) if transposed else (rows, depth)).astype(np.float32)
    w, c = (rng.normal(size=(count, width + 2)).astype(np.float32) for count in (depth, rows))
    flat = [np.concatenate([np.zeros(ahead, np.float32), matrix.ravel()]) for matrix in (a, w, c)]
    a_row, a_step = (1, rows) if transposed else (depth, 1)
    add_product(flat[0], ahead, a_row, a_step, flat[1], ahead, width + 2, flat[2], ahead, width + 2, rows, depth, width)
    expected = c.copy()
    expected[:, :width] += (a.T if transposed else a) @ w[:, :width]
    np.testing.assert_allclose(flat[2][ahead:].reshape(c.shape), expected, rtol=1e-5, atol=1e-5)
    assert not flat[2][:ahead].any()
