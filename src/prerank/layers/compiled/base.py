"""What compiled functions are made of: decorators, functions of LLVM that Numba has no name for, the sigmoid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.polynomial import Chebyshev, Polynomial

LOG2_E = float(np.log2(np.e))

_ONE, _LOWEST, _HIGHEST = np.float32(1), np.float32(-100), np.float32(100)
_EXP2 = Chebyshev.interpolate(np.exp2, 5, domain=[-0.5, 0.5]).convert(kind=Polynomial).coef
_E0, _E1, _E2, _E3, _E4, _E5 = (np.float32(coefficient) for coefficient in _EXP2)  # relative error 1e-7

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile at the first call; like C, without checks of bounds and without the interpreter's lock."""
    made: Any = njit(fastmath=True, error_model="numpy", nogil=True, cache=True)(function)
    return cast("Function", made)


def _llvm_float_function(name: str, count: int) -> Any:
    """A function of LLVM on float32 that Numba has no name for."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * count)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

    return code


@intrinsic
def rounded(typing: Any, x: Any) -> Any:
    """To the nearest whole number."""
    del typing, x
    return types.float32(types.float32), _llvm_float_function("llvm.rint.f32", 1)


@intrinsic
def smaller(typing: Any, x: Any, y: Any) -> Any:
    """The smaller of two numbers."""
    del typing, x, y
    return types.float32(types.float32, types.float32), _llvm_float_function("llvm.minnum.f32", 2)


@intrinsic
def larger(typing: Any, x: Any, y: Any) -> Any:
    """The larger of two numbers."""
    del typing, x, y
    return types.float32(types.float32, types.float32), _llvm_float_function("llvm.maxnum.f32", 2)


@intrinsic
def times_power_of_two(typing: Any, x: Any, exponent: Any) -> Any:
    """x * 2^exponent for a whole exponent, by adding to the bits of x."""
    del typing, x, exponent

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        whole = ir.IntType(32)
        power = builder.shl(builder.fptosi(arguments[1], whole), ir.Constant(whole, 23))
        return builder.bitcast(builder.add(builder.bitcast(arguments[0], whole), power), ir.FloatType())

    return types.float32(types.float32, types.float32), code


@compiled
def gate(t: Any) -> Any:
    """1 / (1 + 2^t): the sigmoid of -t * log(2)."""
    t = smaller(larger(t, _LOWEST), _HIGHEST)  # type: ignore[call-arg]
    whole = rounded(t)
    f = t - whole
    power = ((((_E5 * f + _E4) * f + _E3) * f + _E2) * f + _E1) * f + _E0
    return _ONE / (_ONE + times_power_of_two(power, whole))
