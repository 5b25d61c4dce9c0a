"""Loops over top-k rows: they touch the listed classes only, however many there are.

A row is a string of half bytes, the low one of each byte first: k class indices, then k levels. The first
level is that of the missing mass, the others are ratios to the first class (see
`sparing.cache.encodings.grid`), unless the grid is uniform.
"""

from typing import Any

import numpy as np

from sparing.numerics.kernels.scalars import REASSOCIATE, bits_of, compiled
from sparing.numerics.kernels.uncertainty import ENTROPY, MARGIN, ln

_F = np.float32


@compiled(inline="always")
def _half(row: Any, place: Any) -> Any:
    return row[place >> 1] >> np.uint8(4 * (place & 1)) & np.uint8(15)


@compiled(inline="always", fastmath=REASSOCIATE)
def read_weights(row: Any, first: Any, tables: Any, uniform: Any, unlisted: Any, listed: Any) -> Any:
    """Read a row's weights.

    Args:
        row: its bytes.
        first: the half byte where its levels start.
        tables: shape (2, 16), float32: the weight of each level; and, of each level of the missing mass, the
            weight of an unlisted class relative to the sum of the listed ones.
        uniform: whether the grid is uniform.
        unlisted: how many classes are not listed.
        listed: shape (k,), float32; the weights of the listed classes are written to it.

    Returns:
        The weight of each unlisted class, and the sum of all weights.
    """
    k = len(listed)
    total = _F(0)
    for j in range(k):
        listed[j] = tables[0, _half(row, first + j)]
        total += listed[j]
    if uniform:
        if listed[0] == 0:
            listed[0] = total = _F(1)
        return _F(0), total
    # The first weight is 1 by definition: its level is that of the missing mass.
    total += _F(1) - listed[0]
    listed[0] = _F(1)
    rest = min(tables[1, _half(row, first)] * total, listed[k - 1])
    return rest, total + rest * unlisted


@compiled(fastmath=REASSOCIATE)
def score_lists(
    rows: Any, first: Any, tables: Any, uniform: Any, unlisted: Any, what: Any, listed: Any, out: Any
) -> None:
    """Score rows.

    Args:
        rows: shape (m, n), uint8.
        first: the half byte where levels start.
        tables: as for `read_weights`.
        uniform: whether the grid is uniform.
        unlisted: how many classes are not listed.
        what: ENTROPY, MARGIN or LEAST_CONFIDENCE.
        listed: shape (k,), float32; overwritten.
        out: shape (m,), float32.
    """
    k = len(listed)
    for i in range(len(rows)):
        rest, total = read_weights(rows[i], first, tables, uniform=uniform, unlisted=unlisted, listed=listed)
        if what == ENTROPY:
            inner = rest * unlisted * ln(bits_of(rest))
            for j in range(k):
                inner += listed[j] * ln(bits_of(listed[j]))
            out[i] = max(ln(bits_of(total)) - inner / total, _F(0))
        elif what == MARGIN:
            second = listed[1] if k > 1 else rest
            out[i] = (listed[0] - second) / total
        else:
            out[i] = _F(1) - listed[0] / total
