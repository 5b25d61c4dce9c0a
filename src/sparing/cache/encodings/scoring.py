"""Scores and products of encoded rows, block by block, without decoding the whole table.

Scores of small tables go through numpy, those of large ones through compiled loops that read the encoding
itself. Both agree to within the rounding of float32 sums, about 1e-5. Products are BLAS's, of decoded blocks.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.cache.encodings.encoding import Encoded
from sparing.numerics.blocks import in_blocks
from sparing.numerics.distributions import UNCERTAINTY

Float32 = npt.NDArray[np.float32]

_BLOCK = 8192


def uncertainty(encoded: Encoded, name: str) -> Float32:
    """Score how unsure each distribution is.

    Args:
        encoded: m rows.
        name: a key of `sparing.numerics.distributions.UNCERTAINTY`.

    Returns:
        Shape (m,), float32; higher is less sure.
    """
    loop = _loop(encoded, name) if encoded.compiled else None
    if loop is None:
        return UNCERTAINTY[name](encoded.decode()).astype(np.float32)
    result = np.empty(len(encoded), dtype=np.float32)
    in_blocks(lambda block: loop(encoded.stored[block], result[block]), len(encoded), _BLOCK)
    return np.float32(1) - result if name == "margin" else result


def multiply(
    encoded: Encoded, matrix: Float32, descending: bool, finish: Callable[[slice, Float32], None]
) -> None:
    """Multiply distributions, or their largest entries in descending order, by a matrix, block by block.

    Args:
        encoded: m rows.
        matrix: shape (C, h); with `descending` (width, h), width at most C.
        descending: whether rows are sorted first, the largest entries coming first.
        finish: called with each block's place and its products (rows, h), which it may overwrite; from
            several threads.
    """
    # Rows are sorted with their smallest entry first: the matrix is turned round instead of them.
    factor = np.ascontiguousarray(matrix[::-1]) if descending else matrix

    def work(block: slice) -> None:
        probs = encoded[block].decode()
        finish(block, (largest(probs, len(matrix)) if descending else probs) @ factor)

    in_blocks(work, len(encoded), _BLOCK)


def largest(probs: Float32, width: int) -> Float32:
    """Return the largest entries of each row, in ascending order.

    Args:
        probs: shape (m, C), not negative.
        width: how many, at most C.

    Returns:
        Shape (m, width).
    """
    # Non-negative floats sort like their bits, and numpy sorts integers faster.
    bits = np.ascontiguousarray(probs).view(np.int32)
    c = bits.shape[1]
    if c > 8 * width:
        bits = np.partition(bits, c - width, axis=1)[:, c - width :]
    return np.sort(bits, axis=1)[:, -width:].view(np.float32)


def _loop(encoded: Encoded, name: str) -> Callable[[npt.NDArray[Any], Float32], None] | None:
    from sparing.numerics.kernels.uncertainty import SCORES

    return encoded.encoding.loop(SCORES[name]) if name in SCORES else None
