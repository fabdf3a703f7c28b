"""Products of small matrices at what a core can do: a few rows and columns of the result stay in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from prerank.layers.compiled.base import compiled


def _tile(rows: int, vectors: int, lanes: int) -> Any:
    """A function that adds a product to ``rows`` rows of ``vectors`` times ``lanes`` columns; see ``add_product``."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, w, c = (context.make_array(signature.args[n])(context, builder, arguments[n]).data for n in (0, 4, 7))
        a_at, a_row, a_step = arguments[1:4]
        w_at, w_step = arguments[5:7]
        c_at, c_row, depth = arguments[8:]
        whole, vector = a_at.type, ir.VectorType(ir.FloatType(), lanes)
        kind = ir.FunctionType(vector, [vector] * 3)
        multiply_add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{lanes}f32")
        first, undefined = ir.Constant(ir.IntType(32), 0), ir.Constant(vector, ir.Undefined)
        all_first = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)

        def number(value: int) -> Any:
            return ir.Constant(whole, value)

        def address(base: Any, place: Any) -> Any:
            return builder.bitcast(builder.gep(base, [place]), ir.PointerType(vector))

        def loaded(base: Any, place: Any) -> Any:
            made = builder.load(address(base, place))
            made.align = 4
            return made

        def spread(base: Any, place: Any) -> Any:
            one = builder.insert_element(undefined, builder.load(builder.gep(base, [place])), first)
            return builder.shuffle_vector(one, undefined, all_first)

        def sums(start: Any, end: Any) -> list[Any]:
            """What the accumulators are at the beginning of a block that follows two others."""
            made = [builder.phi(vector) for _ in places]
            for phi, *values in zip(made, start, end or start, strict=True):
                phi.add_incoming(values[0], before)
                if end:
                    phi.add_incoming(values[1], loop)
            return made

        columns = [number(lanes * v) for v in range(vectors)]
        own = builder.gep(c, [c_at])
        places = [builder.add(builder.mul(c_row, number(r)), column) for r in range(rows) for column in columns]
        from_row = [builder.mul(a_row, number(r)) for r in range(rows)]
        begun = [loaded(own, place) for place in places]
        before, loop, done = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed(">", depth, number(0)), loop, done)

        builder.position_at_end(loop)
        k = builder.phi(whole)
        k.add_incoming(number(0), before)
        so_far = sums(begun, None)
        w_k = builder.gep(w, [builder.add(w_at, builder.mul(k, w_step))])
        a_k = builder.gep(a, [builder.add(a_at, builder.mul(k, a_step))])
        factors = [loaded(w_k, column) for column in columns]
        added = []
        for r in range(rows):
            one = spread(a_k, from_row[r])
            added += [builder.call(multiply_add, [one, f, so_far[r * vectors + v]]) for v, f in enumerate(factors)]
        for phi, value in zip(so_far, added, strict=True):
            phi.add_incoming(value, loop)
        following = builder.add(k, number(1))
        k.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)

        builder.position_at_end(done)
        for place, value in zip(places, sums(begun, added), strict=True):
            builder.store(value, address(own, place)).align = 4
        return context.get_dummy_value()

    @intrinsic
    def tile(
        typing: Any, a: Any, a_at: Any, a_row: Any, a_step: Any, w: Any, w_at: Any, w_step: Any, c: Any, c_at: Any,
        c_row: Any, depth: Any,
    ) -> Any:  # fmt: skip
        del typing, a_at, a_row, a_step, w_at, w_step, c_at, c_row, depth
        n = types.intp
        return types.none(a, n, n, n, w, n, n, c, n, n, n), code

    return tile


_6_by_64, _3_by_64, _1_by_64 = (_tile(rows, 4, 16) for rows in (6, 3, 1))
_8_by_32, _1_by_32 = _tile(8, 2, 16), _tile(1, 2, 16)
_8_by_16, _1_by_16 = _tile(8, 1, 16), _tile(1, 1, 16)
_8_by_8, _1_by_8 = _tile(8, 1, 8), _tile(1, 1, 8)


@compiled
def add_product(  # noqa: PLR0912 - a branch for each width of a panel
    a: Any, a_at: int, a_row: int, a_step: int, w: Any, w_at: int, w_step: int, c: Any, c_at: int, c_row: int,
    rows: int, depth: int, width: int,
) -> None:  # fmt: skip
    """c[r, j] += sum of a[r, k] * w[k, j] over k, for matrices within flat arrays.

    Args:
        a, w, c: float32, flat. ``_at`` is where a matrix begins, ``_row`` from one row r to the next, ``_step`` from
            one k to the next; a transposed ``a`` has the two exchanged. Columns of ``w`` and ``c`` are neighbours.
        rows, depth, width: how many r, k and j there are.
    """
    j = 0
    while width - j >= 64:
        r, w_j, c_j = 0, w_at + j, c_at + j
        while rows - r >= 6:
            _6_by_64(a, a_at + r * a_row, a_row, a_step, w, w_j, w_step, c, c_j + r * c_row, c_row, depth)
            r += 6
        while rows - r >= 3:
            _3_by_64(a, a_at + r * a_row, a_row, a_step, w, w_j, w_step, c, c_j + r * c_row, c_row, depth)
            r += 3
        while r < rows:
            _1_by_64(a, a_at + r * a_row, a_row, a_step, w, w_j, w_step, c, c_j + r * c_row, c_row, depth)
            r += 1
        j += 64
    if width - j >= 32:
        r, w_j, c_j = 0, w_at + j, c_at + j
        while rows - r >= 8:
            _8_by_32(a, a_at + r * a_row, a_row, a_step, w, w_j, w_step, c, c_j + r * c_row, c_row, depth)
            r += 8
        while r < rows:
            _1_by_32(a, a_at + r * a_row, a_row, a_step, w, w_j, w_step, c, c_j + r * c_row, c_row, depth)
            r += 1
        j += 32
    if width - j >= 16:
        r, w_j, c_j = 0, w_at + j, c_at + j
        while rows - r >= 8:
            _8_by_16(a, a_at + r * a_row, a_row, a_step, w, w_j, w_step, c, c_j + r * c_row, c_row, depth)
            r += 8
        while r < rows:
            _1_by_16(a, a_at + r * a_row, a_row, a_step, w, w_j, w_step, c, c_j + r * c_row, c_row, depth)
            r += 1
        j += 16
    if width - j >= 8:
        r, w_j, c_j = 0, w_at + j, c_at + j
        while rows - r >= 8:
            _8_by_8(a, a_at + r * a_row, a_row, a_step, w, w_j, w_step, c, c_j + r * c_row, c_row, depth)
            r += 8
        while r < rows:
            _1_by_8(a, a_at + r * a_row, a_row, a_step, w, w_j, w_step, c, c_j + r * c_row, c_row, depth)
            r += 1
        j += 8
    while j < width:
        for r in range(rows):
            total = c[c_at + r * c_row + j]
            for k in range(depth):
                total += a[a_at + r * a_row + k * a_step] * w[w_at + k * w_step + j]
            c[c_at + r * c_row + j] = total
        j += 1
