"""One image between its file and its pixels: the only place that decodes and resamples."""

import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError, OrientationWarning

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The file formats that are read, as Pillow names them; others that it knows are rare, or start programs."""

_ORIENTATION = 0x0112

_BY_RGB = ("YCbCr", "LAB", "HSV")
"""Modes that Pillow turns into grey otherwise than by way of RGB, or not at all."""


def decode(
    value: Any,
    what: str,
    *,
    channels: int = 3,
    resize: tuple[int, int] | None = None,
    formats: tuple[str, ...] = FORMATS,
    upright: bool | None = None,
) -> npt.NDArray[np.uint8]:
    """Decode one image, or take one that is decoded already, and resize it.

    Resampling is bilinear, over the whole area that a pixel of the result covers.

    Args:
        value: an encoded image (bytes), or uint8 of shape (height, width), (height, width, 1) or
            (height, width, 3).
        what: whose image it is, for messages, such as "id 's17'".
        channels: 3 for RGB, 1 for grey.
        resize: height and width to resize to; None to leave them.
        formats: the file formats to accept, as Pillow names them.
        upright: whether to turn the image as its EXIF orientation says, which is how viewers show it; None
            leaves it as it is stored, and warns once when that is not how it is shown.

    Returns:
        Shape (height, width) for grey, (height, width, 3) for RGB, uint8.

    Raises:
        InputError: the value is not an image, is damaged or holds more pixels than Pillow's limit.
    """
    from PIL import Image

    if not isinstance(value, bytes | bytearray | memoryview | np.ndarray):
        raise InputError(
            f"the value of {what} is of type {type(value).__name__}, where the bytes of an image are needed"
        )
    if isinstance(value, np.ndarray) and value.dtype != np.uint8:
        raise InputError(
            f"the value of {what} is an array of {value.dtype}, where an image is needed: its bytes, or "
            "decoded as uint8"
        )
    try:
        with _opened(value, formats) as image:
            limit = Image.MAX_IMAGE_PIXELS
            # Pillow itself only warns here, and raises from twice the limit on.
            if limit is not None and image.width * image.height > limit:
                raise InputError(
                    f"the image of {what} claims {image.width} x {image.height} pixels, more than the "
                    f"{limit} that are decoded (a decompression bomb?)"
                )
            image = image if upright is False else _turned(image, what, upright)
            mode = "L" if channels == 1 else "RGB"
            # Pillow warns of a transparency that neither mode keeps.
            image.info.pop("transparency", None)
            # By way of RGB, so that grey is the same from the file and from decoded pixels.
            decoded = image.convert("RGB") if image.mode in _BY_RGB else image
            decoded = decoded if decoded.mode == mode else decoded.convert(mode)
            if resize is not None and decoded.size != (resize[1], resize[0]):
                decoded = decoded.resize((resize[1], resize[0]), Image.Resampling.BILINEAR)
            return np.asarray(decoded)
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged bytes
        reason = str(error).split(" <_io.")[0]  # an address in memory says nothing to a reader
        raise InputError(f"the image of {what} cannot be decoded: {reason}") from error


def encode(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode an image as PNG, which loses nothing.

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


def _turned(image: Any, what: str, upright: bool | None) -> Any:
    from PIL import ImageOps

    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation in (0, 1):
        return image
    if upright:
        return ImageOps.exif_transpose(image)
    warnings.warn(
        f"the image of {what}, and maybe others, is shown turned by viewers (EXIF orientation "
        f"{orientation}), but read as it is stored; say which is meant: upright = true or false under "
        "[input] in the model's description",
        OrientationWarning,
        stacklevel=2,
    )
    return image


def _opened(value: Any, formats: tuple[str, ...]) -> Any:
    from PIL import Image

    if isinstance(value, np.ndarray):
        return Image.fromarray(value[:, :, 0] if value.ndim == 3 and value.shape[2] == 1 else value)
    return Image.open(io.BytesIO(value), formats=formats)
