"""How many rows are held in memory at a time: bounded in bytes, whatever the width of a row."""

from sparing.outputs.classes import Classes
from sparing.outputs.kind import OutputKind

CHUNK_BYTES = 64_000_000
"""Bytes of float32 that the outputs of one chunk take, at most; work on a chunk takes a few times as much."""


def rows_per_chunk(width: int, at_most: int) -> int:
    """Return how many rows to hold at a time.

    Args:
        width: numbers per row; 0 when it is not known.
        at_most: the most rows, for narrow rows.

    Returns:
        At least 1.
    """
    return max(min(at_most, CHUNK_BYTES // (4 * width)), 1) if width else at_most


def width_of(kind: OutputKind | None) -> int:
    """Return how many numbers a row of a kind of output holds; 0 when that varies or is not known."""
    return kind.n_classes if isinstance(kind, Classes) else 0
