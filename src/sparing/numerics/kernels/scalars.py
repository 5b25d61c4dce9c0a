"""What the loops are made of: compiling them, and reading the bits of a float."""

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

Function = Callable[..., Any]

REASSOCIATE = {"reassoc", "contract", "nsz", "arcp"}
"""Lets sums be split over the lanes of a vector register. NaN and infinity keep their meaning."""


def compiled(**options: Any) -> Callable[[Function], Function]:
    """Compile a loop without the interpreter lock, and keep the result on the disk where that is possible."""

    def decorate(function: Function) -> Function:
        result: Function
        try:
            result = numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache folder can be written to
            result = numba.njit(nogil=True, **options)(function)
        return result

    return decorate


# Numba widens every operation on int32 to 64 bits, which halves what a vector register holds: what is done to
# the bits of a float is written as LLVM instructions.
_I32, _F32 = ir.IntType(32), ir.FloatType()
_SQRT_HALF = ir.Constant(_I32, 0x3F3504F3)
_MANTISSA = ir.Constant(_I32, 23)


def _instruction(source: Any, result: Any, build: Callable[[Any, Any], Any]) -> Any:
    """Make a function of one number out of LLVM instructions."""

    def instruction(typingctx: Any, value: Any) -> Any:  # noqa: ARG001 - the names that numba asks for
        def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
            return build(builder, arguments[0])

        return types.Type.__call__(result, source), generate

    return intrinsic(instruction)


def _exponent(builder: Any, bits: Any) -> Any:
    return builder.ashr(builder.sub(bits, _SQRT_HALF), _MANTISSA)


def _mantissa(builder: Any, bits: Any) -> Any:
    return builder.sub(bits, builder.shl(_exponent(builder, bits), _MANTISSA))


bits_of: Any = _instruction(types.float32, types.int32, lambda b, x: b.bitcast(x, _I32))
"""Read a float32 as int32."""

bits_of_double: Any = _instruction(types.float64, types.uint64, lambda b, x: b.bitcast(x, ir.IntType(64)))
"""Read a float64 as uint64."""

float_of: Any = _instruction(types.int32, types.float32, lambda b, x: b.bitcast(x, _F32))
"""Read an int32 as float32."""

exponent_of: Any = _instruction(types.int32, types.float32, lambda b, x: b.sitofp(_exponent(b, x), _F32))
"""Return e, as float32, of the float32 m * 2**e with these bits, m in [sqrt(1/2), sqrt(2)); finite at 0."""

mantissa_of: Any = _instruction(types.int32, types.float32, lambda b, x: b.bitcast(_mantissa(b, x), _F32))
"""Return that m."""

float_of_half: Any = _instruction(
    types.uint16,
    types.float32,
    # A half's bits, moved to a float's places, lack only the larger exponent bias, 2**112.
    lambda b, x: b.fmul(
        b.bitcast(b.shl(b.zext(x, _I32), ir.Constant(_I32, 13)), _F32), ir.Constant(_F32, 2.0**112)
    ),
)
"""Read the bits of a non-negative float16 as float32."""

float_of_byte: Any = _instruction(types.uint8, types.float32, lambda b, x: b.uitofp(b.zext(x, _I32), _F32))
"""Return a byte as float32."""

float_of_low: Any = _instruction(
    types.uint8, types.float32, lambda b, x: b.uitofp(b.and_(b.zext(x, _I32), ir.Constant(_I32, 15)), _F32)
)
"""Return the low half of a byte as float32."""

float_of_high: Any = _instruction(
    types.uint8, types.float32, lambda b, x: b.uitofp(b.lshr(b.zext(x, _I32), ir.Constant(_I32, 4)), _F32)
)
"""Return the high half of a byte as float32."""
