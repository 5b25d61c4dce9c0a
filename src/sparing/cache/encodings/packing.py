"""Rows of half bytes in a table column.

A column holds whole bytes per row. An odd half byte goes into an integer column of its own, beside the bytes:
Lance stores integers below 16 in 4 bits each, so rows share bytes on the disk and stay separate in the table.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

UInt8 = npt.NDArray[np.uint8]


def column_type(half_bytes: int) -> pa.DataType:
    """Return the column type for rows of so many half bytes, at least 2."""
    whole = pa.binary(half_bytes // 2)
    if half_bytes % 2 == 0:
        return whole
    return pa.struct([pa.field("bytes", whole, nullable=False), pa.field("half", pa.uint8(), nullable=False)])


def pack(halves: UInt8) -> UInt8:
    """Put two half bytes into each byte, the first one low; an odd last one gets a byte to itself.

    Args:
        halves: shape (m, n), values below 16.

    Returns:
        Shape (m, ceil(n / 2)).
    """
    packed = halves[:, 0::2].copy()
    packed[:, : halves.shape[1] // 2] |= halves[:, 1::2] << 4
    return packed


def unpack(packed: UInt8, n: int) -> UInt8:
    """Undo `pack`.

    Returns:
        Shape (m, n), values below 16.
    """
    halves = np.empty((len(packed), n), dtype=np.uint8)
    halves[:, 0::2] = packed & 15
    halves[:, 1::2] = packed[:, : n // 2] >> 4
    return halves


def halves_of(values: npt.NDArray[np.unsignedinteger], n: int) -> UInt8:
    """Split whole numbers into n half bytes each, the lowest first.

    Args:
        values: shape (m, k).
        n: half bytes of each.

    Returns:
        Shape (m, k * n), values below 16.
    """
    shifts = np.arange(0, 4 * n, 4, dtype=np.uint64)
    halves: UInt8 = (values[:, :, None].astype(np.uint64) >> shifts & np.uint64(15)).astype(np.uint8)
    return halves.reshape(len(values), values.shape[1] * n)


def from_halves(halves: UInt8, n: int, kind: type[np.unsignedinteger]) -> npt.NDArray[np.unsignedinteger]:
    """Undo `halves_of`.

    Returns:
        Shape (m, k), of the given kind.
    """
    digits = halves.reshape(len(halves), halves.shape[1] // n, n).astype(kind)
    shifted = digits << np.arange(0, 4 * n, 4, dtype=kind)
    values: npt.NDArray[np.unsignedinteger] = np.bitwise_or.reduce(shifted, axis=2)
    return values


def to_column(rows: UInt8, kind: pa.DataType) -> pa.Array:
    """Return rows of bytes as a column.

    Args:
        rows: shape (m, n); n counts the byte that an odd half byte takes.
        kind: from `column_type`.
    """
    if pa.types.is_fixed_size_binary(kind):
        data = np.ascontiguousarray(rows)
        return pa.FixedSizeBinaryArray.from_buffers(kind, len(data), [None, pa.py_buffer(data)])
    fields = [kind.field(0), kind.field(1)]
    parts = [to_column(rows[:, :-1], fields[0].type), pa.array(rows[:, -1])]
    return pa.StructArray.from_arrays(parts, fields=fields)


def from_column(column: pa.Array) -> UInt8:
    """Undo `to_column`, without copying when no half byte is left over.

    Returns:
        Shape (m, n).
    """
    if not pa.types.is_fixed_size_binary(column.type):
        whole, half = column.flatten()
        return np.concatenate([from_column(whole), half.to_numpy(zero_copy_only=False)[:, None]], axis=1)
    width, m = column.type.byte_width, len(column)
    data = np.frombuffer(column.buffers()[1] or b"", dtype=np.uint8)
    return data[column.offset * width : (column.offset + m) * width].reshape(m, width)
