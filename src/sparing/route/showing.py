"""Pictures decoded once for all the models that will see them, and in the form that each one takes."""

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.errors import InputError
from sparing.models import Model
from sparing.models.preprocess import POOL_FROM_BYTES, decode
from sparing.route.corrupt import CLEAN, Corruption

HELD_PIXELS = 1 << 28
"""Bytes of decoded pictures from which on they are used up before more are decoded."""


@dataclass(frozen=True)
class Shown:
    """Some samples, in the forms that models take.

    Attributes:
        ids: m sample ids.
        given: m values as they came, for models that decode for themselves.
        pixels: m decoded pictures, for models that take those; None when no model does.
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
    """Bring samples to the forms that some models take, decoding each picture at most once.

    A model that does not take pixels gets a corrupted picture in the form that the picture came in: encoded
    again (as PNG, which loses nothing) where it came encoded.

    Args:
        ids: m ids, an Arrow array of `string` or `int64`.
        values: m sample values.
        models: who will see them.
        variant: how they are corrupted.

    Yields:
        Consecutive parts of the samples, at least one each: decoded pictures must fit into memory.

    Raises:
        InputError: a value is no picture and has to be one; its id is named.
    """
    names = ids.to_pylist()
    clean = variant.severity == "clean"
    if clean and not any(model.takes_pixels for model in models):
        yield Shown(names, values, None)
        return
    done = 0
    for group in decode_in_groups(names, values):
        rows = slice(done, done + len(group))
        pixels = [_picture(one) for one in group]
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


def decode_in_groups(
    ids: Sequence[object], values: Sequence[Any], held: int = HELD_PIXELS
) -> Iterator[list[npt.NDArray[np.uint8] | InputError]]:
    """Decode pictures at their own size, some at a time, so that memory does not grow with their number.

    Args:
        ids: m sample ids, for messages.
        values: m pictures: encoded bytes, or decoded as uint8 arrays.
        held: bytes of decoded pictures from which on a group ends.

    Yields:
        Consecutive groups, at least one picture each; in place of a value that is no picture, the error.
    """

    def one(row: int) -> npt.NDArray[np.uint8] | InputError:
        try:
            return decode(ids[row], values[row])
        except InputError as error:
            return error

    pooled = sum(len(v) for v in values if isinstance(v, bytes)) > POOL_FROM_BYTES * len(values)
    step = min(8, os.cpu_count() or 1) if pooled else 1
    with ThreadPoolExecutor(step) as pool:
        group: list[npt.NDArray[np.uint8] | InputError] = []
        size = 0
        for start in range(0, len(ids), step):
            rows = range(start, min(start + step, len(ids)))
            pictures = list((pool.map if pooled else map)(one, rows))
            group += pictures
            size += sum(picture.nbytes for picture in pictures if isinstance(picture, np.ndarray))
            if size >= held:
                yield group
                group, size = [], 0
        if group:
            yield group


def encode(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode a picture as PNG, which loses nothing.

    Args:
        pixels: shape (height, width, 3), uint8.

    Returns:
        The bytes of the PNG file.
    """
    from PIL import Image

    buffer = io.BytesIO()
    # The bytes are decoded again at once: quickly is better than small.
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _picture(decoded: npt.NDArray[np.uint8] | InputError) -> npt.NDArray[np.uint8]:
    if isinstance(decoded, InputError):
        raise decoded
    return decoded
