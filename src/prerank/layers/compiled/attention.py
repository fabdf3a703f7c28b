"""The first layer of the attention unit and the weighted sum of behaviours (``layers.interaction``), compiled.

A request's rows are those of its first query, one for each behaviour, then those of its second, and so on; ``offsets``
times C says where they begin. Behaviours are read from their table by number, so nothing is as long as all histories
together but the rows. Everything works on requests ``start`` to ``stop``, so that threads can share them.

Shape letters as in ``prerank.batch``; W is the width of the first layer, e a behaviour, q a query.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from prerank.layers.compiled.base import compiled
from prerank.layers.compiled.products import add_product
from prerank.layers.compiled.threads import in_shares

_ZERO = np.float32(0)


@compiled
def longest(offsets: Any, start: int, stop: int) -> int:
    """Length of the longest of some lists."""
    length = 0
    for b in range(start, stop):
        length = max(length, offsets[b + 1] - offsets[b])
    return length


@compiled
def first_layer(
    start: int, stop: int, table: Any, values: Any, offsets: Any, queries: Any, of_queries: Any, places: Any,
    of_step: Any, of_product: Any, x: Any,
) -> None:  # fmt: skip
    """x = of_queries + of_step e + of_product (q * e) + the place's term.

    The two matrices make one for each query, of_step + of_product diag(q), so that a row costs one product.

    Args:
        table: (M, D) with rows ``values`` (T,) for the requests' ``offsets`` (B + 1,).
        queries: (B, C, D).
        of_queries: (B, C, W).
        places: (P, W) for a behaviour's place counted from the history's end, the last one for all before; P may be 0.
        of_step, of_product: (D, W), transposed.
        x: (T * C, W).
    """
    count, depth, width = queries.shape[1], queries.shape[2], x.shape[1]
    past = np.empty(longest(offsets, start, stop) * depth, dtype=np.float32)
    matrix = np.empty((depth, width), dtype=np.float32)
    flat_matrix, flat_x = matrix.reshape(-1), x.reshape(-1)
    for b in range(start, stop):
        begin, length = offsets[b], offsets[b + 1] - offsets[b]
        if length == 0:
            continue
        _gather(table, values, begin, length, past)
        for c in range(count):
            for k in range(depth):
                factor = queries[b, c, k]
                for h in range(width):
                    matrix[k, h] = of_step[k, h] + factor * of_product[k, h]
            row = begin * count + c * length
            for t in range(length):
                for h in range(width):
                    x[row + t, h] = of_queries[b, c, h]
            if len(places):
                for t in range(length):
                    place = min(length - 1 - t, len(places) - 1)
                    for h in range(width):
                        x[row + t, h] += places[place, h]
            add_product(past, 0, depth, 1, flat_matrix, 0, width, flat_x, row * width, width, length, depth, width)


@compiled
def first_layer_backward(
    start: int, stop: int, table: Any, values: Any, offsets: Any, queries: Any, of_product: Any,
    rows_of_step: Any, rows_of_product: Any, d_x: Any, d_table: Any, d_queries: Any, d_of_queries: Any,
    d_places: Any, d_step: Any, d_product: Any,
) -> None:  # fmt: skip
    """Fill in ``d_queries`` and ``d_of_queries``, add to the other gradients.

    Args:
        start, stop, table, values, offsets, queries: as in ``first_layer``.
        of_product: (D, W), transposed; ``rows_of_step`` and ``rows_of_product`` (W, D) are not.
        d_x: (T * C, W).
        d_table, d_queries, d_of_queries, d_places: in the shapes of what they belong to.
        d_step, d_product: (D, W), transposed.
    """
    count, depth, width = queries.shape[1], queries.shape[2], d_x.shape[1]
    past = np.empty(longest(offsets, start, stop) * depth, dtype=np.float32)
    d_past = np.empty_like(past)
    matrix, d_matrix = np.empty((width, depth), dtype=np.float32), np.empty((depth, width), dtype=np.float32)
    flat_matrix, flat_d_matrix, flat_d_x = matrix.reshape(-1), d_matrix.reshape(-1), d_x.reshape(-1)
    for b in range(start, stop):
        begin, length = offsets[b], offsets[b + 1] - offsets[b]
        if length == 0:
            d_queries[b] = _ZERO
            d_of_queries[b] = _ZERO
            continue
        _gather(table, values, begin, length, past)
        d_past[: length * depth] = _ZERO
        for c in range(count):
            row = begin * count + c * length
            sums = d_of_queries[b, c]
            sums[:] = _ZERO
            for t in range(length):
                for h in range(width):
                    sums[h] += d_x[row + t, h]
            if len(d_places):
                for t in range(length):
                    place = min(length - 1 - t, len(d_places) - 1)
                    for h in range(width):
                        d_places[place, h] += d_x[row + t, h]
            d_matrix[:] = _ZERO
            add_product(past, 0, 1, depth, flat_d_x, row * width, width, flat_d_matrix, 0, width, depth, length, width)
            for k in range(depth):
                factor, total = queries[b, c, k], _ZERO
                for h in range(width):
                    d = d_matrix[k, h]
                    total += d * of_product[k, h]
                    d_product[k, h] += d * factor
                    d_step[k, h] += d
                d_queries[b, c, k] = total
            for h in range(width):
                for k in range(depth):
                    matrix[h, k] = rows_of_step[h, k] + queries[b, c, k] * rows_of_product[h, k]
            add_product(flat_d_x, row * width, width, 1, flat_matrix, 0, depth, d_past, 0, depth, length, width, depth)
        _scatter(d_past, values, begin, length, d_table)


@compiled
def weighted_sums(start: int, stop: int, table: Any, values: Any, offsets: Any, weights: Any, out: Any) -> None:
    """``out`` (B, C, D) = the sums of each history's behaviours times the ``weights`` (T * C,) of their rows."""
    count, depth = out.shape[1], out.shape[2]
    past = np.empty(longest(offsets, start, stop) * depth, dtype=np.float32)
    flat_out = out.reshape(-1)
    for b in range(start, stop):
        begin, length = offsets[b], offsets[b + 1] - offsets[b]
        out[b] = _ZERO
        _gather(table, values, begin, length, past)
        add_product(
            weights, begin * count, length, 1, past, 0, depth, flat_out, b * count * depth, depth, count, length, depth
        )


@compiled
def weighted_sums_backward(
    start: int, stop: int, table: Any, values: Any, offsets: Any, weights: Any, grad: Any, d_weights: Any,
    d_table: Any,
) -> None:  # fmt: skip
    """Fill in ``d_weights`` (T * C,) and add to ``d_table`` (M, D), given the gradient (B, C, D)."""
    count, depth = grad.shape[1], grad.shape[2]
    d_past = np.empty(longest(offsets, start, stop) * depth, dtype=np.float32)
    flat_grad = grad.reshape(-1)
    for b in range(start, stop):
        begin, length = offsets[b], offsets[b + 1] - offsets[b]
        for c in range(count):
            row = begin * count + c * length
            for t in range(length):
                value, total = values[begin + t], _ZERO
                for k in range(depth):
                    total += grad[b, c, k] * table[value, k]
                d_weights[row + t] = total
        d_past[: length * depth] = _ZERO
        add_product(
            weights, begin * count, 1, length, flat_grad, b * count * depth, depth, d_past, 0, depth, length, count,
            depth,
        )  # fmt: skip
        _scatter(d_past, values, begin, length, d_table)


@in_shares
def first_layers(
    edges: Any, table: Any, values: Any, offsets: Any, queries: Any, of_queries: Any, places: Any, of_step: Any,
    of_product: Any, x: Any,
) -> None:  # fmt: skip
    """``first_layer`` for all requests."""
    for n in prange(len(edges) - 1):
        first_layer(edges[n], edges[n + 1], table, values, offsets, queries, of_queries, places, of_step, of_product, x)


@in_shares
def first_layers_backward(
    edges: Any, table: Any, values: Any, offsets: Any, queries: Any, of_product: Any, rows_of_step: Any,
    rows_of_product: Any, d_x: Any, d_queries: Any, d_of_queries: Any, d_table: Any, d_places: Any, d_step: Any,
    d_product: Any,
) -> None:  # fmt: skip
    """``first_layer_backward`` for all requests; what it adds to has one more dimension, the share's."""
    for n in prange(len(edges) - 1):
        first_layer_backward(
            edges[n], edges[n + 1], table, values, offsets, queries, of_product, rows_of_step, rows_of_product, d_x,
            d_table[n], d_queries, d_of_queries, d_places[n], d_step[n], d_product[n],
        )  # fmt: skip


@in_shares
def all_sums(edges: Any, table: Any, values: Any, offsets: Any, weights: Any, out: Any) -> None:
    """``weighted_sums`` of all requests."""
    for n in prange(len(edges) - 1):
        weighted_sums(edges[n], edges[n + 1], table, values, offsets, weights, out)


@in_shares
def all_sums_backward(
    edges: Any, table: Any, values: Any, offsets: Any, weights: Any, grad: Any, d_weights: Any, d_table: Any
) -> None:
    """``weighted_sums_backward`` of all requests; ``d_table`` has one more dimension, the share's."""
    for n in prange(len(edges) - 1):
        weighted_sums_backward(edges[n], edges[n + 1], table, values, offsets, weights, grad, d_weights, d_table[n])


@compiled
def _gather(table: Any, values: Any, begin: int, length: int, past: Any) -> None:
    depth = table.shape[1]
    for t in range(length):
        value = values[begin + t]
        for k in range(depth):
            past[t * depth + k] = table[value, k]


@compiled
def _scatter(d_past: Any, values: Any, begin: int, length: int, d_table: Any) -> None:
    depth = d_table.shape[1]
    for t in range(length):
        value = values[begin + t]
        for k in range(depth):
            d_table[value, k] += d_past[t * depth + k]
