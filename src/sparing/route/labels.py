"""Labels of samples and names of classes, checked once for training, calibration and judging."""

import numpy as np
import numpy.typing as npt

from sparing.data.samples import Samples
from sparing.errors import InputError
from sparing.ids import name_first

Labels = npt.NDArray[np.int64]


def known_labels(samples: Samples) -> Labels:
    """Read the labels, of which none may be missing.

    Args:
        samples: m samples.

    Returns:
        Shape (m,), from 0 up.

    Raises:
        InputError: the samples have no labels, or one of them has none; its id is named.
    """
    labels = samples.labels()
    if labels is None:
        raise InputError(
            f"{samples.what}: the samples have no labels; add an integer column `label` to the table"
        )
    if (labels < 0).any():
        message = name_first(samples.ids, labels < 0, lambda _: "has no label")
        raise InputError(f"{samples.what}: {message}")
    return labels


def check_classes(samples: Samples, labels: Labels, n_classes: int) -> None:
    """Raise InputError unless every label is a class of the experts; the first that is not is named.

    Args:
        samples: m samples.
        labels: shape (m,), -1 where one is missing.
        n_classes: how many classes the experts know.
    """
    wrong = labels >= n_classes
    if wrong.any():
        message = name_first(samples.ids, wrong, lambda row: f"has the label {labels[row]}")
        raise InputError(f"{samples.what}: {message}, but the experts know {n_classes} classes")


def listed(names: tuple[str, ...] | None) -> str:
    """Format class names for a message: how many, and the first five."""
    names = names or ()
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
