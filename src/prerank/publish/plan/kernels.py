"""The passes of a request that a chain of tensor operations would do in many: compiled by Numba, on one core.

The compiled code is cached beside this file or in the user's cache directory (NUMBA_CACHE_DIR names another one).
Shape letters as in ``prerank.models.base``; Hu and Hv are the heads of user and item, P is a head's width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from prerank.layers.compiled.base import compiled, gate

AHEAD = 8  # rows fetched before they are needed: about what a core can have under way
BLOCK = 256  # candidates whose similarities are joined together: everything of them stays in the first cache

_ZERO, _ONE, _TINY = np.float32(0), np.float32(1), np.float32(1e-12)


@intrinsic
def _fetch(typing: Any, array: Any, place: Any) -> Any:
    """Ask for the memory at a place of a flat array, without waiting for it."""
    del typing, place

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.PointerType(ir.IntType(8)))
        whole = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, whole, whole, whole])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, whole(0), whole(2), whole(1)])  # to read, into the second cache, data
        return context.get_dummy_value()

    return types.none(array, types.intp), code


@compiled
def dice(x: Any, before: Any, slope: Any, shift: Any, alpha: Any) -> None:
    """Dice of x + before, in place, with the gate 1 / (1 + 2^((x + before) * slope + shift)).

    Args:
        x: (L, n, channels).
        before: (places, n, channels), the last place for the last of L, and so on; those beyond share the first.
        slope, shift, alpha: (channels,).
    """
    for step in range(x.shape[0]):
        place = max(before.shape[0] - x.shape[0] + step, 0)
        for row in range(x.shape[1]):
            for channel in range(x.shape[2]):
                value = x[step, row, channel] + before[place, row, channel]
                opened = gate(value * slope[channel] + shift[channel])
                x[step, row, channel] = value * (alpha[channel] + (_ONE - alpha[channel]) * opened)


@compiled
def dice_product(x: Any, before: Any, slope: Any, shift: Any, alpha: Any, weight: Any, bias: Any, out: Any) -> None:
    """``dice`` and the linear layer of one output that follows it: (L, n, channels) to ``out`` (L, n)."""
    for step in range(x.shape[0]):
        place = max(before.shape[0] - x.shape[0] + step, 0)
        for row in range(x.shape[1]):
            total = bias
            for channel in range(x.shape[2]):
                value = x[step, row, channel] + before[place, row, channel]
                opened = gate(value * slope[channel] + shift[channel])
                total += value * (alpha[channel] + (_ONE - alpha[channel]) * opened) * weight[channel]
            out[step, row] = total


@compiled
def rectify(x: Any, before: Any) -> None:
    """ReLU of x + before, in place: (R, channels), and (R, channels) or (1, channels)."""
    last = before.shape[0] - 1
    for row in range(x.shape[0]):
        for channel in range(x.shape[1]):
            x[row, channel] = max(x[row, channel] + before[min(row, last), channel], _ZERO)


@compiled
def similarities(
    users: Any, choices: Any, rows: Any, positions: Any, user_heads: int, item_heads: int, out: Any
) -> None:
    """Dot products of all pairs of heads, read from the store's rows without copying them (FIT eq. 13).

    Args:
        users: (N, Hu * P) the user's representations.
        choices: (K,) which of them a candidate meets.
        rows: (R, Hv * P) the items.
        positions: (K,) the candidates' rows.
        user_heads, item_heads: Hu and Hv.
        out: (Hu * Hv, K).
    """
    width = rows.shape[1]
    size = width // item_heads
    flat = rows.reshape(-1)
    paired_users, paired_items = user_heads - user_heads % 2, item_heads - item_heads % 2
    for k in range(len(positions)):
        if k + AHEAD < len(positions):
            following = positions[k + AHEAD] * width
            for place in range(following, following + width, 16):
                _fetch(flat, place)  # type: ignore[call-arg]
        user, item = users[choices[k]], rows[positions[k]]
        for i in range(0, paired_users, 2):  # two by two: each number is loaded once for two products
            u0, u1 = user[i * size : (i + 1) * size], user[(i + 1) * size : (i + 2) * size]
            for j in range(0, paired_items, 2):
                v0, v1 = item[j * size : (j + 1) * size], item[(j + 1) * size : (j + 2) * size]
                s00, s01, s10, s11 = _ZERO, _ZERO, _ZERO, _ZERO
                for p in range(size):
                    s00 += u0[p] * v0[p]
                    s01 += u0[p] * v1[p]
                    s10 += u1[p] * v0[p]
                    s11 += u1[p] * v1[p]
                pair = i * item_heads + j
                out[pair, k], out[pair + 1, k] = s00, s01
                out[pair + item_heads, k], out[pair + item_heads + 1, k] = s10, s11
        for i in range(user_heads):
            for j in range(paired_items if i < paired_users else 0, item_heads):
                u, v = user[i * size : (i + 1) * size], item[j * size : (j + 1) * size]
                s = _ZERO
                for p in range(size):
                    s += u[p] * v[p]
                out[i * item_heads + j, k] = s


@compiled
def to_cosines(users: Any, choices: Any, rows: Any, positions: Any, user_heads: int, item_heads: int, out: Any) -> None:
    """Divide the dot products that ``similarities`` has written to ``out`` by the lengths of both heads."""
    of_users = np.empty((len(users), user_heads), dtype=np.float32)
    for n in range(len(users)):
        _lengths(users[n], of_users[n])
    of_item = np.empty(item_heads, dtype=np.float32)
    for k in range(len(positions)):
        _lengths(rows[positions[k]], of_item)
        of_user = of_users[choices[k]]
        for i in range(user_heads):
            for j in range(item_heads):
                out[i * item_heads + j, k] /= of_user[i] * of_item[j]


@compiled
def _lengths(x: Any, out: Any) -> None:
    """Of the heads of (H * P), into (H)."""
    size = len(x) // len(out)
    for head in range(len(out)):
        h = x[head * size : (head + 1) * size]
        total = _ZERO
        for p in range(size):
            total += h[p] * h[p]
        out[head] = max(np.sqrt(total), _TINY)


@compiled
def lightweight_scores(s: Any, w1: Any, b1: Any, w2: Any, b2: Any, w: Any, bias: Any, out: Any) -> None:
    """FIT's LSS on the similarities of K candidates, a block of them at a time (FIT eqs. 14 to 16).

    Args:
        s: (Hu * Hv, K).
        w1, b1: (d, Hv) and (d,), the row-wise layer.
        w2, b2: (d, Hu) and (d,), the column-wise layer.
        w: (d, d) the projection: output of the column-wise layer, column.
        bias: of the output.
        out: (K,).
    """
    width, item_heads = w1.shape
    user_heads, candidates = w2.shape[1], s.shape[1]
    rows = np.empty((user_heads, BLOCK), dtype=np.float32)
    hidden = np.empty(BLOCK, dtype=np.float32)
    for start in range(0, candidates, BLOCK):
        count = min(BLOCK, candidates - start)
        total = out[start : start + count]
        total[:] = bias
        for j in range(width):
            for i in range(user_heads):
                row = rows[i]
                row[:] = b1[j]
                for h in range(item_heads):
                    similarity, factor = s[i * item_heads + h, start : start + count], w1[j, h]
                    for k in range(count):
                        row[k] += factor * similarity[k]
                for k in range(count):
                    row[k] = max(row[k], _ZERO)
            if user_heads == 2 and width % 2 == 0:
                _add_columns_of_two(rows, w2, b2, w[:, j], total)
                continue
            for o in range(width):
                hidden[:] = b2[o]
                for i in range(user_heads):
                    row, factor = rows[i], w2[o, i]
                    for k in range(count):
                        hidden[k] += factor * row[k]
                factor = w[o, j]
                for k in range(count):
                    total[k] += max(hidden[k], _ZERO) * factor


@compiled
def _add_columns_of_two(rows: Any, w2: Any, b2: Any, w: Any, total: Any) -> None:
    """What one column of two heads, the published number, adds to the logits: nothing in between is stored."""
    r0, r1 = rows[0], rows[1]
    for o in range(0, len(w), 2):
        f0, f1, f2, fw = w2[o, 0], w2[o, 1], b2[o], w[o]
        g0, g1, g2, gw = w2[o + 1, 0], w2[o + 1, 1], b2[o + 1], w[o + 1]
        for k in range(len(total)):
            f = max(r0[k] * f0 + r1[k] * f1 + f2, _ZERO)
            g = max(r0[k] * g0 + r1[k] * g1 + g2, _ZERO)
            total[k] += f * fw + g * gw
