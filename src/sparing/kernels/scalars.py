"""What the loops are made of: compiling them, and reading the bits of a float."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])

REASSOCIATE = {"reassoc", "contract", "nsz", "arcp"}
"""Lets sums be split over the lanes of a vector register. NaN and infinity keep their meaning."""


def compiled(**options: Any) -> Callable[[F], F]:
    """Compile a loop without the interpreter lock, and keep the result on the disk where that is possible."""

    def decorate(function: F) -> F:
        result: F
        try:
            result = numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache folder can be written to
            result = numba.njit(nogil=True, **options)(function)
        return result

    return decorate


def _bits_of(typingctx: Any, value: Any) -> Any:  # noqa: ARG001 - the name that numba asks for
    """Read a float32 as int32, a float64 as uint64."""
    result = types.int32 if value == types.float32 else types.uint64

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(result))

    return types.Type.__call__(result, value), generate


def _float_of(typingctx: Any, bits: Any) -> Any:  # noqa: ARG001 - the name that numba asks for
    """Read an int32 as float32."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.Type.__call__(types.float32, bits), generate


bits_of: Any = intrinsic(_bits_of)
float_of: Any = intrinsic(_float_of)
