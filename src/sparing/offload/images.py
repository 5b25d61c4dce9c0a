"""Encoded images brought to the size that the models take."""

from collections.abc import Iterable

import numpy as np
from PIL import Image

from sparing.data.samples import Samples
from sparing.errors import InputError
from sparing.images import decode
from sparing.offload.models import Geometry, Pixels

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF")


def read_image(data: bytes, geometry: Geometry, *, what: str = "the image") -> Pixels:
    """Decode an encoded image and bring it to the size that the models take, by bicubic resampling.

    Args:
        data: JPEG, PNG, WebP or AVIF bytes.
        geometry: the size to bring it to.
        what: whose image it is, for the error message.

    Returns:
        Shape (height, width, 3), RGB.

    Raises:
        InputError: not an image, damaged, or larger than Pillow's limit.
    """
    if not isinstance(data, bytes):
        raise InputError(f"{what}: expected the bytes of an encoded image, got {type(data).__name__}")
    image = Image.fromarray(decode(data, what, formats=FORMATS))
    # Bicubic, as in all measurements here; `decode` would resample bilinearly.
    return np.asarray(image.resize((geometry.width, geometry.height), Image.Resampling.BICUBIC))


def read_images(samples: Samples, positions: Iterable[int], geometry: Geometry) -> Pixels:
    """Decode some samples to images of shape (k, height, width, 3).

    Raises:
        InputError: a sample is not an image; its id is named.
    """
    at = np.fromiter(positions, dtype=np.int64)
    values = samples.fetch(at)
    return np.stack(
        [
            read_image(value, geometry, what=f"sample {samples.ids[int(row)].as_py()!r} of {samples.what}")
            for row, value in zip(at, values, strict=True)
        ]
    )
