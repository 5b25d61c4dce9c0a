"""Arrays of other libraries as numpy arrays."""

from typing import Any

import numpy as np
import numpy.typing as npt


def as_array(values: Any) -> npt.NDArray[Any]:
    """Return numbers as a numpy array.

    Args:
        values: anything that numpy reads; a torch tensor, or a list of them, on any device and with or
            without a gradient; bfloat16, which numpy does not have, becomes float32.

    Raises:
        ValueError, TypeError, RuntimeError: what numpy or the other library raises: ragged rows, for example.
    """
    if isinstance(values, list | tuple) and values and hasattr(values[0], "detach"):
        return np.stack([as_array(one) for one in values])
    if hasattr(values, "detach"):  # a tensor, told without importing torch
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
