"""An image codec for a few dozen to a few hundred bytes, where containers and headers would decide.

The receiver knows the size. The image goes to YCbCr and through an orthonormal DCT of its blocks; the
blocks' means go through a DCT of their own, over the whole image. Every coefficient is rounded to the same
step, and coded by a range coder with fixed probabilities that depend on its frequency, its channel and its
neighbours coded before it. One byte in front holds the step and how busy the image is.

The probabilities were fitted to photographs of natural scenes by `benchmarks/fit_dct_tables.py` and belong to
the format: changing them needs a codec of another name and number.
"""

from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.fft import dctn, idctn

from sparing.errors import InputError
from sparing.offload.codecs import rangecoder
from sparing.offload.codecs.codec import Encoder, Pixels
from sparing.offload.codecs.dct_tables import CLASSES, FREQUENCY_EDGES, MEAN_CLASS, ODDS

Int16 = npt.NDArray[np.int16]

QUALITIES = 64
"""Qualities are 0 (step 861 of an orthonormal DCT) to 63 (step 3.7), a factor of 2 every 8."""

COARSEST = 78
"""Eighths of octaves of the step of quality 0."""

BUSY = (-3, 0, 3, 6)
"""Scales of an image's coefficients, in quarter octaves; an image uses the one that suits it."""

ACTIVITY_EDGES = (1, 2, 3, 5, 8, 12)
"""Where the levels of neighbourhood activity begin, above level 0."""

_UNARY = (
    15  # magnitudes from here on are escaped, so that a hostile stream cannot make a reader count for ever
)
_ESCAPE_BITS = 12
_KINDS = len(ODDS[0])
_HALF = 1 << (rangecoder.SCALE_BITS - 1)
_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], dtype=np.float32
)
_TO_RGB = np.linalg.inv(_TO_YCC.astype(np.float64)).astype(np.float32)


class Dct:
    """The codec of one size of blocks, for the registry.

    Args:
        block: the side of a block: 8, 16 or 32.
        number: on the wire.
    """

    qualities = QUALITIES

    def __init__(self, block: int, *, number: int) -> None:
        self.block, self.number, self.name = block, number, f"dct{block}"

    def encoder(self, image: Pixels) -> Encoder:
        """Transform an image once, to code it at several qualities; see `Codec`."""
        return partial(encode, transform(image, self.block))

    def decode(self, data: bytes, height: int, width: int) -> Pixels:
        """Read an image back; see `Codec`."""
        return decode(data, height, width, self.block)

    def template(self, height: int, width: int) -> bytes:  # noqa: ARG002 - of the contract
        """Return nothing: all tables belong to the format."""
        return b""


def step_of(quality: int) -> float:
    """Return the quantiser's step of a quality."""
    return float(2.0 ** ((COARSEST - quality) / 8))


def transform(image: Pixels, block: int) -> npt.NDArray[np.float32]:
    """Turn an image into coefficients.

    Args:
        image: shape (H, W, 3), RGB; padded to whole blocks by repeating its edge.
        block: the side of a block: 8, 16 or 32.

    Returns:
        Shape (3, H / block, W / block, block, block), rounded up; orthonormal, in units of grey levels.
    """
    height, width, _ = image.shape
    rows, cols = -(-height // block), -(-width // block)
    padded = np.pad(
        image, ((0, rows * block - height), (0, cols * block - width), (0, 0)), mode="edge"
    ).astype(np.float32)
    ycc = (padded - 128) @ _TO_YCC.T
    blocks = ycc.reshape(rows, block, cols, block, 3).transpose(4, 0, 2, 1, 3)
    coefficients: npt.NDArray[np.float32] = dctn(blocks, axes=(3, 4), norm="ortho")
    coefficients[..., 0, 0] = dctn(coefficients[..., 0, 0], axes=(1, 2), norm="ortho")
    return coefficients


def inverse(coefficients: npt.NDArray[np.float32], height: int, width: int) -> Pixels:
    """Turn coefficients back into an image of shape (height, width, 3)."""
    coefficients = coefficients.copy()
    coefficients[..., 0, 0] = idctn(coefficients[..., 0, 0], axes=(1, 2), norm="ortho")
    blocks = idctn(coefficients, axes=(3, 4), norm="ortho")
    _, rows, cols, block, _ = blocks.shape
    ycc = blocks.transpose(1, 3, 2, 4, 0).reshape(rows * block, cols * block, 3)
    rgb: Pixels = np.clip(np.rint(ycc[:height, :width] @ _TO_RGB.T + 128), 0, 255).astype(np.uint8)
    return rgb


def quantise(coefficients: npt.NDArray[np.float32], quality: int) -> Int16:
    """Round coefficients to whole steps of a quality."""
    limit = _UNARY + (1 << _ESCAPE_BITS) - 2
    rounded = np.rint(coefficients / np.float32(step_of(quality)))
    quantised: Int16 = np.clip(rounded, -limit, limit).astype(np.int16)
    return quantised


def encode(coefficients: npt.NDArray[np.float32], quality: int) -> bytes:
    """Code a transformed image.

    Args:
        coefficients: what `transform` gave.
        quality: 0 to 63.

    Returns:
        One byte of header and the stream.
    """
    quantised = quantise(coefficients, quality)
    layout = _layout(*quantised.shape[1:4])
    shifts = [class_shift(quality, busy) for busy in range(len(BUSY))]
    busy = int(np.argmin(_lengths(quantised, layout, np.array(shifts), ODDS)))
    stream: Pixels = _encode(quantised, layout, shifts[busy], ODDS)
    return bytes([quality | busy << 6]) + stream.tobytes()


def decode(data: bytes, height: int, width: int, block: int) -> Pixels:
    """Read an image back.

    Args:
        data: what `encode` gave.
        height: rows of pixels, known to both sides.
        width: columns of pixels.
        block: the side of a block.

    Returns:
        Shape (height, width, 3).

    Raises:
        InputError: no header, more bytes than the image takes, or zeros at the end, which no encoder sends.
    """
    if not data:
        raise InputError("the image is empty: its first byte is missing")
    quality, busy = data[0] & 63, data[0] >> 6
    rows, cols = -(-height // block), -(-width // block)
    layout = _layout(rows, cols, block)
    stream = np.frombuffer(data, dtype=np.uint8)[1:]
    quantised = np.zeros((3, rows, cols, block, block), dtype=np.int16)
    read = _decode(stream, quantised, layout, class_shift(quality, busy), ODDS)
    if len(stream) > read or (len(stream) and stream[-1] == 0):
        raise InputError(f"the image takes fewer bytes than the {len(data)} that came")
    return inverse(quantised * np.float32(step_of(quality)), height, width)


def class_shift(quality: int, busy: int) -> int:
    """Return what to add to a coefficient's class for that of its ratio to the step; 32 is a ratio of 1."""
    return 32 - (COARSEST - quality + 1) // 2 + BUSY[busy]


# Payloads choose the shapes of mosaics: few are kept, so that no sequence of them fills the memory.
@lru_cache(maxsize=8)
def _layout(rows: int, cols: int, block: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    return layout_of((rows, cols, block), FREQUENCY_EDGES, CLASSES, MEAN_CLASS)


def layout_of(
    shape: tuple[int, int, int],
    edges: npt.ArrayLike,
    by_frequency: npt.ArrayLike,
    of_mean: npt.ArrayLike,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the order of frequencies within a block, low ones first, and the class of every coefficient.

    Args:
        shape: rows of blocks, columns of blocks, and the side of a block.
        edges: E squared frequencies at which the size to expect changes.
        by_frequency: shape (3, E + 1), classes: sizes to expect, in quarter octaves of grey levels.
        of_mean: 3 classes of the mean of an image of 1,024 pixels.

    Returns:
        Shape (block * block, 2): (u, v) in coding order; and shape (3, rows, cols, block, block): the class
        of every coefficient.
    """
    rows, cols, block = shape
    keys = frequency_keys(rows, cols, block)
    classes = np.asarray(by_frequency)[:, np.searchsorted(edges, keys, side="right")]
    # The mean of the whole image grows with the root of the number of pixels.
    growth = 2 * (max(rows * cols * block * block // 1024, 1).bit_length() - 1)
    classes[:, 0, 0, 0, 0] = np.asarray(of_mean) + growth
    side = np.arange(block)
    order = np.argsort(side[:, None] ** 2 + side**2, axis=None, kind="stable")
    return np.stack(np.divmod(order, block), axis=1).astype(np.int32), classes.astype(np.int32)


def frequency_keys(rows: int, cols: int, block: int) -> npt.NDArray[np.int64]:
    """Return each coefficient's squared frequency, in units of (1/1024 cycle per pixel) ** 2, rounded down.

    Returns:
        Shape (rows, cols, block, block); whole numbers, so that both sides agree to the last bit.
    """
    side = 512 // block * np.arange(block)
    keys = np.tile(side[:, None] ** 2 + side**2, (rows, cols, 1, 1))
    keys[:, :, 0, 0] = ((512 * np.arange(rows)) ** 2 // (rows * block) ** 2)[:, None] + (
        512 * np.arange(cols)
    ) ** 2 // (cols * block) ** 2
    return keys


@njit(cache=True)
def _activity(q: Any, place: Any) -> int:
    """Measure the neighbours coded before: same frequency, lower frequencies, the channel before."""
    channel, row, col, u, v = place
    total = 0
    if row > 0:
        total += min(abs(q[channel, row - 1, col, u, v]), 3)
    if col > 0:
        total += min(abs(q[channel, row, col - 1, u, v]), 3)
    if u > 0 and u + v > 1:
        total += 2 * min(abs(q[channel, row, col, u - 1, v]), 3)
    if v > 0 and u + v > 1:
        total += 2 * min(abs(q[channel, row, col, u, v - 1]), 3)
    if channel > 0:
        total += 2 * min(abs(q[channel - 1, row, col, u, v]), 3)
    level = 0
    while level < len(ACTIVITY_EDGES) and total >= ACTIVITY_EDGES[level]:
        level += 1
    return level


@njit(cache=True)
def _class(base: int, shift: int) -> int:
    return min(max(base + shift, 0), _KINDS - 1)


@njit(cache=True)
def _lengths(q: Any, layout: Any, shifts: Any, odds: Any) -> Any:
    """Estimate the bits that an image takes at each scale of busyness."""
    bits = np.zeros(len(shifts))
    order, classes = layout
    for at in range(len(order)):
        u, v = order[at]
        for row in range(q.shape[1]):
            for col in range(q.shape[2]):
                for channel in range(3):
                    place = (channel, row, col, u, v)
                    size = abs(q[place])
                    level = _activity(q, place)
                    for busy in range(len(shifts)):
                        kind = _class(classes[place], shifts[busy])
                        nonzero = odds[0, kind, level] / 65536.0
                        if size == 0:
                            bits[busy] -= np.log2(1 - nonzero)
                        else:
                            more = odds[1, kind, level] / 65536.0
                            bits[busy] -= (
                                np.log2(nonzero) + min(size - 1, 14) * np.log2(more) + np.log2(1 - more)
                            )
    return bits


@njit(cache=True)
def _encode(q: Any, layout: Any, shift: int, odds: Any) -> Any:
    # At most 15 modelled bits of up to 16 bits each, a sign and 12 escape bits for a coefficient.
    buffer, state = rangecoder.start(16 + q.size * 36)
    order, classes = layout
    for at in range(len(order)):
        u, v = order[at]
        for row in range(q.shape[1]):
            for col in range(q.shape[2]):
                for channel in range(3):
                    place = (channel, row, col, u, v)
                    value = q[place]
                    level = _activity(q, place)
                    kind = _class(classes[place], shift)
                    size = abs(value)
                    rangecoder.put(buffer, state, int(size > 0), odds[0, kind, level])
                    if size == 0:
                        continue
                    rangecoder.put(buffer, state, int(value < 0), _HALF)
                    for reached in range(1, _UNARY):
                        rangecoder.put(buffer, state, int(size > reached), odds[1, kind, level])
                        if size == reached:
                            break
                    if size >= _UNARY:
                        for bit in range(_ESCAPE_BITS - 1, -1, -1):
                            rangecoder.put(buffer, state, ((size - _UNARY) >> bit) & 1, _HALF)
    return buffer[: rangecoder.finish(buffer, state)]


@njit(cache=True)
def _decode(data: Any, q: Any, layout: Any, shift: int, odds: Any) -> int:
    """Fill `q` and return how many bytes the stream may have at most."""
    state = rangecoder.open_stream(data)
    order, classes = layout
    for at in range(len(order)):
        u, v = order[at]
        for row in range(q.shape[1]):
            for col in range(q.shape[2]):
                for channel in range(3):
                    place = (channel, row, col, u, v)
                    level = _activity(q, place)
                    kind = _class(classes[place], shift)
                    if not rangecoder.get(data, state, odds[0, kind, level]):
                        continue
                    negative = rangecoder.get(data, state, _HALF)
                    size = 1
                    while size < _UNARY and rangecoder.get(data, state, odds[1, kind, level]):
                        size += 1
                    if size == _UNARY:
                        extra = 0
                        for _ in range(_ESCAPE_BITS):
                            extra = 2 * extra + rangecoder.get(data, state, _HALF)
                        size += extra
                    q[place] = -size if negative else size
    return int(state[2])


@njit(cache=True)
def count(q: Any, layout: Any, shift: int, counts: Any) -> None:
    """Count decisions by class and activity, for fitting `ODDS`.

    Args:
        q: a quantised image.
        layout: what `layout_of` returned.
        shift: what to add to the classes.
        counts: shape (2, 2, classes, levels), changed in place: whether a coefficient is 0 or not, and
            whether a magnitude ended or continued.
    """
    order, classes = layout
    for at in range(len(order)):
        u, v = order[at]
        for row in range(q.shape[1]):
            for col in range(q.shape[2]):
                for channel in range(3):
                    place = (channel, row, col, u, v)
                    size = abs(q[place])
                    level = _activity(q, place)
                    kind = _class(classes[place], shift)
                    counts[0, min(size, 1), kind, level] += 1
                    if size > 0:
                        counts[1, 1, kind, level] += min(size - 1, 14)
                        counts[1, 0, kind, level] += 1
