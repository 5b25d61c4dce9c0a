"""Images decoded once for all the models that will see them, and in the form that each one takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.errors import InputError
from sparing.images import CLEAN, Corruption, decode_in_groups, encode
from sparing.models import Model


@dataclass(frozen=True)
class Shown:
    """Some samples, in the forms that models take.

    Attributes:
        ids: m sample ids.
        given: m values as they came, for models that decode for themselves.
        pixels: m decoded images, for models that take those; None when no model does.
    """

    ids: list[object]
    given: list[Any]
    pixels: list[npt.NDArray[np.uint8]] | None

    def to(self, model: Model) -> list[Any]:
        """Choose the form that a model takes."""
        return self.pixels if model.takes_pixels and self.pixels is not None else self.given


def show(
    ids: pa.Array, values: list[Any], models: Sequence[Model], variant: Corruption = CLEAN
) -> Iterator[Shown]:
    """Bring samples to the forms that some models take, decoding each image at most once.

    A model that does not take pixels gets a corrupted image in the form that the image came in: encoded
    again (as PNG, which loses nothing) where it came encoded.

    Args:
        ids: m ids, an Arrow array of `string` or `int64`.
        values: m sample values.
        models: who will see them.
        variant: how they are corrupted.

    Yields:
        Consecutive parts of the samples, at least one each: decoded images must fit into memory.

    Raises:
        InputError: a value is not an image and has to be one; its id is named.
    """
    names = ids.to_pylist()
    clean = variant.severity == "clean"
    if clean and not any(model.takes_pixels for model in models):
        yield Shown(names, values, None)
        return
    done = 0
    for group in decode_in_groups(names, values):
        rows = slice(done, done + len(group))
        pixels = [_image(one) for one in group]
        given = values[rows]
        if not clean:
            pixels = variant.apply(ids[rows], pixels)
            if not all(model.takes_pixels for model in models):
                given = [
                    after if isinstance(before, np.ndarray) else encode(after)
                    for before, after in zip(given, pixels, strict=True)
                ]
        yield Shown(names[rows], given, pixels)
        done += len(group)


def _image(decoded: npt.NDArray[np.uint8] | InputError) -> npt.NDArray[np.uint8]:
    if isinstance(decoded, InputError):
        raise decoded
    return decoded
