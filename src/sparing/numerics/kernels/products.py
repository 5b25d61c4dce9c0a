"""The product of a tall table and a narrow matrix.

BLAS is made for products that are large in every direction; this one is limited by how fast rows arrive.
Tiles of 6 rows by 16 columns are summed up in registers, in blocks of rows that stay close to the processor
while the next ones are fetched. A tile leaves room for a piece of a matrix row, be there 16 registers of 8
floats, 32 of 4, or 32 of 16. (Tiling as in Goto and van de Geijn, Anatomy of high-performance matrix
multiplication, 2008.)
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from sparing.numerics.kernels.scalars import REASSOCIATE, compiled

COLUMNS = 16
"""The matrix and the products must have a multiple of so many columns."""

_ROWS = 6
_BLOCK_ROWS = 8 * _ROWS
_LINE = 16  # floats in a line of the cache

_BYTE, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_VECTOR = ir.VectorType(_F32, COLUMNS)
_FUSED = ("contract",)
_PREFETCH = "llvm.prefetch.p0"


@compiled(fastmath=REASSOCIATE)
def multiply_rows(table: Any, matrix: Any, out: Any) -> None:
    """Multiply a table by a matrix.

    Args:
        table: shape (m, n), float32, contiguous, n at least 1.
        matrix: shape (n, h), float32, contiguous, h a multiple of COLUMNS.
        out: shape (m, h), float32, contiguous.
    """
    m, n = table.shape
    for start in range(0, m, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, m)
        for place in range(stop * n, (stop + _BLOCK_ROWS) * n, _LINE):
            _fetch(table, place)
        for column in range(0, matrix.shape[1], COLUMNS):
            for row in range(start, stop, _ROWS):
                _multiply_tile(table, row, matrix, column, out)


# Numba has no vectors, and does not keep the sums of a loop over arrays in registers.
def _tile(typingctx: Any, table: Any, row: Any, matrix: Any, column: Any, out: Any) -> Any:  # noqa: ARG001

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds, zero, one = signature.args, _I64(0), _I64(1)
        source, factors, products = (
            context.make_array(kinds[at])(context, builder, arguments[at]) for at in (0, 2, 4)
        )
        m, n = (builder.extract_value(source.shape, axis) for axis in (0, 1))
        h = builder.extract_value(factors.shape, 1)
        first, column = arguments[1], arguments[3]
        last = builder.sub(m, one)
        places = []
        for r in range(_ROWS):
            place = builder.add(first, _I64(r))
            places.append(builder.select(builder.icmp_signed("<", place, last), place, last))
        rows = [builder.gep(source.data, [builder.mul(place, n)]) for place in places]

        before, loop = builder.block, builder.append_basic_block("sum")
        after = builder.append_basic_block("store")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(_I64)
        sums = [builder.phi(_VECTOR) for _ in range(_ROWS)]
        place = builder.add(builder.mul(k, h), column)
        factor = builder.load(_vector_at(builder, factors.data, place), align=4)
        new = [
            builder.fadd(
                total,
                builder.fmul(_spread(builder, builder.load(builder.gep(row, [k]))), factor, flags=_FUSED),
                flags=_FUSED,
            )
            for row, total in zip(rows, sums, strict=True)
        ]
        following = builder.add(k, one)
        k.add_incoming(zero, before)
        k.add_incoming(following, loop)
        for total, value in zip(sums, new, strict=True):
            total.add_incoming(_VECTOR(None), before)
            total.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", following, n), loop, after)

        builder.position_at_end(after)
        for place, value in zip(places, new, strict=True):
            target = builder.add(builder.mul(place, h), column)
            builder.store(value, _vector_at(builder, products.data, target), align=4)
        return context.get_dummy_value()

    return types.void(table, row, matrix, column, out), generate


def _vector_at(builder: Any, data: Any, place: Any) -> Any:
    return builder.bitcast(builder.gep(data, [place]), _VECTOR.as_pointer())


def _spread(builder: Any, value: Any) -> Any:
    undefined = _VECTOR(ir.Undefined)
    single = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(single, undefined, ir.VectorType(_I32, COLUMNS)(None))


def _line(typingctx: Any, table: Any, place: Any) -> Any:  # noqa: ARG001

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = context.make_array(signature.args[0])(context, builder, arguments[0])
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _I32, _I32, _I32])
        fetch = builder.module.globals.get(_PREFETCH) or ir.Function(builder.module, kind, _PREFETCH)
        address = builder.bitcast(builder.gep(source.data, [arguments[1]]), _BYTE.as_pointer())
        builder.call(fetch, [address, _I32(0), _I32(3), _I32(1)])  # to read, into every cache, data
        return context.get_dummy_value()

    return types.void(table, place), generate


_multiply_tile: Any = intrinsic(_tile)
"""Write one tile of the products; past the last row, that row is taken again."""

_fetch: Any = intrinsic(_line)
"""Ask for the memory at a place of the table before it is read; past the table's end, nothing happens."""
