"""From sample values to the input of a model: pixels are scaled, numbers stacked, text passed on."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError
from sparing.models.description import InputDescription


def normalise_images(
    pixels: npt.NDArray[np.uint8], description: InputDescription, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Scale, centre and lay out images as `(pixel * scale - mean) / std`.

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
        InputError: a value is not a number, differs in shape from the others, or does not fit the type.
    """
    arrays: list[npt.NDArray[Any]] = []
    for sample_id, value in zip(ids, values, strict=True):
        try:
            array = np.asarray(value)
        except ValueError as error:  # lists of lists of differing length
            raise InputError(f"the value of id {sample_id!r} is not an array of numbers: {error}") from error
        if array.dtype.kind not in "fiub":
            hint = ' (for encoded images: [input] decode = "image")' if isinstance(value, bytes) else ""
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
        with np.errstate(over="ignore"):
            result = working.astype(kind, copy=False)
        finite = np.isfinite(result) | ~np.isfinite(stacked)
        if not finite.all():
            row = int((~finite).reshape(len(ids), -1).any(axis=1).argmax())
            raise InputError(f"the value of id {ids[row]!r} is beyond what the model's type {kind} holds")
        return result
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
        InputError: a value is not a text.
    """
    for sample_id, value in zip(ids, values, strict=True):
        if not isinstance(value, str):
            raise InputError(f"the value of id {sample_id!r} is {_kind(value)}, but the model takes text")
    return np.array(values, dtype=object)


def _kind(value: Any) -> str:
    return "bytes" if isinstance(value, bytes) else f"of type {type(value).__name__}"
