"""How distributions are stored in a cache column, and read back as valid distributions."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def arrow_type(n_classes: int) -> pa.DataType:
    """Give the column type that holds one distribution per row."""
    return pa.list_(pa.float16(), n_classes)


def encode(probs: npt.NDArray[np.float32]) -> pa.Array:
    """Turn distributions into a column.

    Args:
        probs: shape (m, C), float32.

    Returns:
        m entries of `arrow_type(C)`.
    """
    flat = np.ascontiguousarray(probs, dtype=np.float16).ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), probs.shape[1])


def decode(column: pa.Array) -> npt.NDArray[np.float32]:
    """Turn a column back into distributions, renormalised to sum to 1 (PURE, Table 10).

    Returns:
        Shape (m, C), float32.
    """
    width = column.type.list_size
    flat = column.flatten().to_numpy(zero_copy_only=False)
    probs = flat.reshape(-1, width).astype(np.float32)
    normalised: npt.NDArray[np.float32] = probs / probs.sum(axis=1, keepdims=True)
    return normalised
