"""The compiled passes against the formulas they compute, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from prerank.publish.plan import kernels

Doubles = NDArray[np.float64]


def numbers(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (rng.normal(size=shape) * scale).astype(np.float32)


def dice(x: Doubles, slope: Doubles, shift: Doubles, alpha: Doubles) -> Doubles:
    with np.errstate(over="ignore"):
        gate = 1 / (1 + np.exp2(x * slope + shift))
    return gate * x + (1 - gate) * alpha * x


@pytest.mark.parametrize(("places", "kept"), [(1, [0, 0, 0, 0, 0]), (3, [0, 0, 0, 1, 2]), (7, [2, 3, 4, 5, 6])])
@pytest.mark.parametrize("channels", [1, 7, 16, 64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_dice_and_its_product(channels: int, scale: float, places: int, kept: list[int]) -> None:
    """Gates that are closed, open and in between; what is added is that of a step's place."""
    rng = np.random.default_rng(channels)
    x, before = numbers(rng, 5, 6, channels, scale=scale), numbers(rng, places, 6, channels, scale=scale)
    slope, shift, alpha, weight = numbers(rng, 4, channels)
    exact = [part.astype(np.float64) for part in (x + before[kept], slope, shift, alpha)]
    expected = dice(*exact)
    out = np.empty((5, 6), dtype=np.float32)
    kernels.dice_product(x, before, slope, shift, alpha, weight, np.float32(0.25), out)
    size = np.abs(expected) @ np.abs(weight) + 1
    assert (np.abs(out - (expected @ weight.astype(np.float64) + 0.25)) <= 1e-6 * size).all()
    kernels.dice(x, before, slope, shift, alpha)
    assert (np.abs(x - expected) <= 1e-6 * (np.abs(expected) + scale)).all()


@pytest.mark.parametrize("rows", [1, 5])
def test_rectify(rows: int) -> None:
    rng = np.random.default_rng(rows)
    x, before = numbers(rng, 5, 7), numbers(rng, rows, 7)
    expected = np.maximum(x + before, 0)
    kernels.rectify(x, before)
    assert np.array_equal(x, expected)


@pytest.mark.parametrize("heads", [(1, 1), (2, 2), (1, 3), (3, 2), (4, 5)])
@pytest.mark.parametrize("size", [1, 8, 64])
def test_similarities(heads: tuple[int, int], size: int) -> None:
    rng = np.random.default_rng(size)
    users, rows = numbers(rng, 6, heads[0] * size), numbers(rng, 20, heads[1] * size)
    choices, positions = rng.integers(6, size=50, dtype=np.uint8), rng.integers(20, size=50)
    out = np.empty((heads[0] * heads[1], 50), dtype=np.float32)
    rows.setflags(write=False)  # as a mapped file is
    kernels.similarities(users, choices, rows, positions, *heads, out)
    of_users = users[choices].astype(np.float64).reshape(50, heads[0], size)
    of_items = rows[positions].astype(np.float64).reshape(50, heads[1], size)
    expected = np.einsum("kip,kjp->ijk", of_users, of_items).reshape(-1, 50)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("heads", [(1, 1), (2, 2), (2, 3), (3, 2)])
@pytest.mark.parametrize("width", [1, 4, 5, 16])
@pytest.mark.parametrize("candidates", [0, 1, 256, 600])
def test_lightweight_scores(heads: tuple[int, int], width: int, candidates: int) -> None:
    rng = np.random.default_rng(width)
    s = numbers(rng, heads[0] * heads[1], candidates)
    w1, b1, w2, b2 = (numbers(rng, *shape) for shape in ((width, heads[1]), (width,), (width, heads[0]), (width,)))
    w, out = numbers(rng, width, width), np.empty(candidates, dtype=np.float32)
    kernels.lightweight_scores(s, w1, b1, w2, b2, w, np.float32(0.5), out)
    grid = s.astype(np.float64).reshape(*heads, candidates)
    rows = np.maximum(np.einsum("jh,ihk->ijk", w1, grid) + b1[:, None], 0)
    columns = np.maximum(np.einsum("oi,ijk->ojk", w2, rows) + b2[:, None, None], 0)
    np.testing.assert_allclose(out, np.einsum("oj,ojk->k", w, columns) + 0.5, rtol=2e-5, atol=2e-5)
