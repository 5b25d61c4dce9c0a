"""From sample values to the input of a model: pictures are decoded, numbers stacked, text passed on."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError
from sparing.models.description import InputDescription

POOL_FROM_BYTES = 16384
"""Mean encoded size from which pictures are decoded by several threads: decoders let go of Python's lock only
for work that large, and thumbnails are decoded faster by one."""

_BY_RGB = ("YCbCr", "LAB", "HSV")
"""Modes that Pillow turns into grey otherwise than by way of RGB, or not at all."""


def images(
    ids: list[object], values: list[Any], *, channels: int, resize: tuple[int, int] | None
) -> npt.NDArray[np.uint8]:
    """Decode a batch of pictures.

    Args:
        ids: m sample ids, to name the one that cannot be decoded.
        values: m encoded pictures (bytes), in any format that Pillow knows, or decoded ones; see `decode`.
        channels: 3 for RGB, 1 for grey.
        resize: height and width to resize to (bilinear); None to leave them.

    Returns:
        Shape (m, height, width, channels), uint8.

    Raises:
        InputError: a value is no picture, is damaged, holds more pixels than Pillow's limit, or differs in
            size from the others; its id is named.
    """

    def decode_row(row: int) -> npt.NDArray[np.uint8]:
        return decode(ids[row], values[row], channels, resize)

    if sum(len(v) for v in values if isinstance(v, bytes)) > POOL_FROM_BYTES * len(values):
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            pictures = list(pool.map(decode_row, range(len(values))))
    else:
        pictures = [decode_row(row) for row in range(len(values))]
    for sample_id, picture in zip(ids, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise InputError(
                f"the picture of id {sample_id!r} is {_size(picture)} pixels, that of id {ids[0]!r} "
                f"{_size(pictures[0])}; state a common size: [input] resize = [height, width]"
            )
    batch = np.stack(pictures)
    return batch.reshape(*batch.shape[:3], channels)


def decode(
    sample_id: object, value: Any, channels: int = 3, resize: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """Decode one picture, or take one that is decoded already, and resize it.

    Args:
        sample_id: its id, for messages.
        value: an encoded picture (bytes), or uint8 of shape (height, width), (height, width, 1) or
            (height, width, 3).
        channels: 3 for RGB, 1 for grey.
        resize: height and width to resize to (bilinear); None to leave them.

    Returns:
        Shape (height, width) for grey, (height, width, 3) for RGB, uint8.

    Raises:
        InputError: the value is no picture, is damaged or holds more pixels than Pillow's limit.
    """
    from PIL import Image

    if not isinstance(value, bytes | bytearray | memoryview | np.ndarray):
        raise InputError(
            f'the value of id {sample_id!r} is {_kind(value)}; decode = "image" needs the bytes of a picture'
        )
    if isinstance(value, np.ndarray) and value.dtype != np.uint8:
        raise InputError(
            f"the value of id {sample_id!r} is an array of {value.dtype}, where a picture is needed: its "
            "bytes, or decoded as uint8"
        )
    try:
        with _opened(value) as picture:
            limit = Image.MAX_IMAGE_PIXELS
            # Pillow itself only warns here, and raises from twice the limit on.
            if limit is not None and picture.width * picture.height > limit:
                raise InputError(
                    f"the picture of id {sample_id!r} claims {picture.width} x {picture.height} pixels, "
                    f"more than the {limit} that are decoded (a decompression bomb?)"
                )
            mode = "L" if channels == 1 else "RGB"
            # Pillow warns of a transparency that neither mode keeps.
            picture.info.pop("transparency", None)
            # By way of RGB, so that grey is the same from the file and from decoded pixels.
            decoded = picture.convert("RGB") if picture.mode in _BY_RGB else picture
            decoded = decoded if decoded.mode == mode else decoded.convert(mode)
            if resize is not None and decoded.size != (resize[1], resize[0]):
                decoded = decoded.resize((resize[1], resize[0]), Image.Resampling.BILINEAR)
            return np.asarray(decoded)
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged bytes
        reason = str(error).split(" <_io.")[0]  # an address in memory tells nobody anything
        raise InputError(f"the picture of id {sample_id!r} cannot be decoded: {reason}") from error


def _opened(value: Any) -> Any:
    from PIL import Image

    if isinstance(value, np.ndarray):
        return Image.fromarray(value[:, :, 0] if value.ndim == 3 and value.shape[2] == 1 else value)
    return Image.open(io.BytesIO(value))


def normalise_images(
    pixels: npt.NDArray[np.uint8], description: InputDescription, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Scale, centre and lay out pictures as `(pixel * scale - mean) / std`.

    Args:
        pixels: shape (m, height, width, channels), uint8.
        description: scale, mean, std and layout.
        dtype: type of the result.

    Returns:
        Shape (m, channels, height, width) or (m, height, width, channels), by the layout.
    """
    nchw = description.layout == "NCHW"
    arranged = pixels.transpose(0, 3, 1, 2) if nchw else pixels
    kind = np.dtype(dtype)
    if kind.kind != "f":
        return np.ascontiguousarray(arranged, dtype=kind)
    shape = (-1, 1, 1) if nchw else (-1,)
    scale = 1 / 255 if description.scale is None else description.scale
    std = np.asarray(description.std or 1.0, dtype=np.float64)
    factor = np.asarray(scale / std, dtype=np.float32).reshape(shape)
    shift = np.asarray(-np.asarray(description.mean or 0.0) / std, dtype=np.float32).reshape(shape)
    result = np.multiply(arranged, factor, dtype=np.float32, order="C")
    result += shift
    return result.astype(kind, copy=False)


def numbers(
    ids: list[object], values: list[Any], description: InputDescription, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Stack numbers, or arrays of them, as `(value * scale - mean) / std`.

    Args:
        ids: m sample ids, to name the one that does not fit.
        values: m numbers or arrays of one shape.
        description: scale, mean and std.
        dtype: type of the result.

    Returns:
        Shape (m, ...).

    Raises:
        InputError: a value is no number, differs in shape from the others, or does not fit the type.
    """
    arrays: list[npt.NDArray[Any]] = []
    for sample_id, value in zip(ids, values, strict=True):
        try:
            array = np.asarray(value)
        except ValueError as error:  # lists of lists of differing length
            raise InputError(f"the value of id {sample_id!r} is no array of numbers: {error}") from error
        if array.dtype.kind not in "fiub":
            hint = ' (for encoded pictures: [input] decode = "image")' if isinstance(value, bytes) else ""
            raise InputError(
                f"the value of id {sample_id!r} is {_kind(value)}, but the model takes numbers{hint}"
            )
        if arrays and array.shape != arrays[0].shape:
            raise InputError(
                f"the value of id {sample_id!r} has shape {array.shape}, "
                f"that of id {ids[0]!r} {arrays[0].shape}"
            )
        arrays.append(array)
    stacked = np.stack(arrays)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        # In float32 at least: float16 would lose the integers above 2048 before they are scaled.
        working = stacked.astype(np.result_type(kind, np.float32))
        if description.scale is not None:
            working = working * working.dtype.type(description.scale)
        if description.mean is not None:
            working = working - np.asarray(description.mean, dtype=working.dtype)
        if description.std is not None:
            working = working / np.asarray(description.std, dtype=working.dtype)
        return working.astype(kind, copy=False)
    with np.errstate(invalid="ignore"):
        cast = stacked.astype(kind)
    changed = (cast != stacked).reshape(len(ids), -1).any(axis=1)
    if changed.any():
        raise InputError(
            f"the value of id {ids[int(changed.argmax())]!r} does not fit the model's type {kind} "
            f"({int(changed.sum())} of {len(ids)} in this batch)"
        )
    return cast


def texts(ids: list[object], values: list[Any]) -> npt.NDArray[np.object_]:
    """Pass text on as an array of Python strings.

    Raises:
        InputError: a value is no text.
    """
    for sample_id, value in zip(ids, values, strict=True):
        if not isinstance(value, str):
            raise InputError(f"the value of id {sample_id!r} is {_kind(value)}, but the model takes text")
    return np.array(values, dtype=object)


def _kind(value: Any) -> str:
    return "bytes" if isinstance(value, bytes) else f"of type {type(value).__name__}"


def _size(picture: npt.NDArray[np.uint8]) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"
