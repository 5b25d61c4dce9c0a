"""Many images: decoded to one array, or group by group in bounded memory."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError
from sparing.images.decoding import decode

POOL_FROM_BYTES = 16384
"""Mean encoded size from which images are decoded by several threads: decoders release Python's lock only for
work that large, and thumbnails are decoded faster by one."""

HELD_PIXELS = 1 << 28
"""Bytes of decoded images after which they are used up before more are decoded."""

_THREADS = 8

Pixels = npt.NDArray[np.uint8]


def decode_batch(
    ids: Sequence[object],
    values: Sequence[Any],
    *,
    channels: int,
    resize: tuple[int, int] | None,
    upright: bool | None = None,
) -> Pixels:
    """Decode images to one array.

    Args:
        ids: m sample ids, to name the one that cannot be decoded.
        values: m encoded images (bytes), in one of `decoding.FORMATS`, or decoded ones; see `decode`.
        channels: 3 for RGB, 1 for grey.
        resize: height and width to resize to (bilinear); None to leave them.
        upright: whether to turn images as their EXIF orientation says; see `decode`.

    Returns:
        Shape (m, height, width, channels), uint8.

    Raises:
        InputError: a value is not an image, is damaged, holds more pixels than Pillow's limit, or differs in
            size from the others; its id is named.
    """

    def one(row: int) -> Pixels:
        return decode(values[row], f"id {ids[row]!r}", channels=channels, resize=resize, upright=upright)

    with _mapping(values) as (mapped, _):
        images = list(mapped(one, range(len(values))))
    for sample_id, image in zip(ids, images, strict=True):
        if image.shape != images[0].shape:
            raise InputError(
                f"the image of id {sample_id!r} is {_size(image)} pixels, that of id {ids[0]!r} "
                f"{_size(images[0])}; state a common size: [input] resize = [height, width]"
            )
    batch = np.stack(images)
    return batch.reshape(*batch.shape[:3], channels)


def decode_in_groups(
    ids: Sequence[object], values: Sequence[Any], held: int = HELD_PIXELS
) -> Iterator[list[Pixels | InputError]]:
    """Decode images at their own size, some at a time, so that memory does not grow with their number.

    Args:
        ids: m sample ids, for messages.
        values: m images: encoded bytes, or decoded as uint8 arrays.
        held: bytes of decoded images from which a group ends.

    Yields:
        Consecutive groups, at least one image each; in place of a value that is not an image, the error.
    """

    def one(row: int) -> Pixels | InputError:
        try:
            return decode(values[row], f"id {ids[row]!r}")
        except InputError as error:
            return error

    group: list[Pixels | InputError] = []
    size = 0
    with _mapping(values) as (mapped, step):
        for start in range(0, len(values), step):
            images = list(mapped(one, range(start, min(start + step, len(values)))))
            group += images
            size += sum(image.nbytes for image in images if isinstance(image, np.ndarray))
            if size >= held:
                yield group
                group, size = [], 0
    if group:
        yield group


@contextmanager
def _mapping(values: Sequence[Any]) -> Iterator[tuple[Callable[..., Iterator[Any]], int]]:
    """Choose how to map over rows: by this thread, or where images are large by several; and by how many."""
    threads = min(_THREADS, os.cpu_count() or 1)
    if sum(len(v) for v in values if isinstance(v, bytes)) <= POOL_FROM_BYTES * len(values):
        yield map, 1
        return
    with ThreadPoolExecutor(threads) as pool:
        yield pool.map, threads


def _size(image: Pixels) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
