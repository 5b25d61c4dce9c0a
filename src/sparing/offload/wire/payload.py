"""The payload: a versioned binary format that counts every bit, and a strict reader.

Both sides know the geometry, so nothing of it is sent. What a payload holds is said by its first byte, or by
its first two:

| version (3 bits) | what follows it | says |
|---|---|---|
| 1 | kind (2 bits), detail (3 bits) | the kinds below and codecs 0 to 5 |
| 2 | kind (5 bits), detail (8 bits) | what version 1 cannot: later kinds, codecs from 6 on |

The detail is the codec's number, or for raw patches the bits per sample less one. Version 1 never changes.

| kind | | what follows |
|---|---|---|
| 0 | raw | index set, then each patch's samples at the stated depth, padded with zero bits to a byte |
| 1 | mosaic | index set, padded with zero bits to a byte, then the coded mosaic of the patches |
| 2 | whole | the coded image |
| 3 | scaled | one byte, the scale in eighths (1 to 7), then the coded, down-scaled image |

Patches are in ascending order of position. A mosaic of k patches has ceil(sqrt(k)) columns; cells that are
left over repeat the last patch.
"""

from math import isqrt
from typing import Literal

import numpy as np
from PIL import Image

from sparing.errors import InputError
from sparing.offload.codecs import codec_named, codec_numbered
from sparing.offload.models import Evidence, Geometry, Indices, Pixels
from sparing.offload.wire.indices import decode_indices, encode_indices, index_bits

VERSIONS = (1, 2)
EIGHTHS = 8

Kind = Literal["raw", "mosaic", "whole", "scaled"]
_KINDS: tuple[Kind, ...] = ("raw", "mosaic", "whole", "scaled")

FIRST_CODECS = 6
"""Codecs with smaller numbers than this are named by version 1."""


def codec_of(payload: bytes) -> str:
    """Return the name of the codec of a payload that `unpack` reads; "" for raw patches."""
    kind, detail, _ = _read_head(payload)
    return "" if kind == "raw" else codec_numbered(detail).name


def max_payload(geometry: Geometry) -> int:
    """Return the bytes that no payload exceeds: all patches raw, twice the index set, and a little more."""
    return 3 * geometry.height * geometry.width + geometry.patches // 4 + 64


def raw_bits(geometry: Geometry, k: int, depth: int) -> int:
    """Count the bits of a payload of k raw patches, without the padding to a byte."""
    samples = 3 * geometry.patch**2
    return 8 + index_bits(geometry.patches, k) + k * samples * depth


def pack_raw(geometry: Geometry, patches: Pixels, positions: Indices, depth: int) -> bytes:
    """Write patches sample by sample.

    Args:
        geometry: known to both sides.
        patches: shape (k, patch, patch, 3).
        positions: shape (k,), distinct.
        depth: bits per sample, 1 to 8: the highest bits are kept.

    Returns:
        The payload, of `raw_bits` bits, rounded up to a byte.
    """
    order = np.argsort(positions)
    samples = (patches[order].reshape(-1) >> (8 - depth)).astype(np.uint8)
    planes = np.unpackbits(samples[:, None], axis=1)[:, 8 - depth :]
    index, length = encode_indices(positions.tolist(), geometry.patches)
    head = np.frombuffer(format(index, f"0{length}b").encode(), dtype=np.uint8) - ord("0")
    return _head("raw", depth - 1) + np.packbits(np.concatenate([head, planes.ravel()])).tobytes()


def mosaic_head(geometry: Geometry, positions: Indices, codec: str) -> bytes:
    """Write what comes before the coded mosaic."""
    index, length = encode_indices(positions.tolist(), geometry.patches)
    padding = -length % 8
    bits = (index << padding).to_bytes((length + padding) // 8, "big")
    return _head("mosaic", codec_named(codec).number) + bits


def whole_head(codec: str, eighths: int) -> bytes:
    """Write what comes before a coded image, at full size or at a scale of 1 to 7 eighths."""
    if eighths == EIGHTHS:
        return _head("whole", codec_named(codec).number)
    return _head("scaled", codec_named(codec).number) + bytes([eighths])


def mosaic_of(patches: Pixels) -> Pixels:
    """Lay out patches of shape (k, p, p, 3), k >= 1, in an image of ceil(sqrt(k)) columns."""
    k, p = patches.shape[:2]
    rows, cols = _mosaic_shape(k)
    cells = patches[np.minimum(np.arange(rows * cols), k - 1)]
    mosaic: Pixels = cells.reshape(rows, cols, p, p, 3).transpose(0, 2, 1, 3, 4)
    return mosaic.reshape(rows * p, cols * p, 3)


def scaled_size(geometry: Geometry, eighths: int) -> tuple[int, int]:
    """Return height and width at a scale, rounded up."""
    return -(-geometry.height * eighths // EIGHTHS), -(-geometry.width * eighths // EIGHTHS)


def unpack(payload: bytes, geometry: Geometry) -> Evidence:
    """Read a payload; nothing in it can make this take more memory than the geometry allows.

    Args:
        payload: what came, of any content.
        geometry: the images that both sides have agreed on.

    Returns:
        The patches and their positions.

    Raises:
        InputError: another version, an unknown kind or codec, cut short, too long, or damaged.
    """
    kind, detail, start = _read_head(payload)
    body = payload[start:]
    if kind == "raw":
        return _unpack_raw(body, geometry, detail + 1)
    codec = codec_numbered(detail)
    if kind == "mosaic":
        positions, start = _indices(body, geometry)
        k, p = len(positions), geometry.patch
        if k == 0:
            raise InputError("the payload holds no patches")
        rows, cols = _mosaic_shape(k)
        mosaic = codec.decode(body[start:], rows * p, cols * p)
        cells = mosaic.reshape(rows, p, cols, p, 3).transpose(0, 2, 1, 3, 4).reshape(-1, p, p, 3)
        return Evidence(cells[:k], positions)
    if kind == "scaled":
        if not body or not 0 < body[0] < EIGHTHS:
            raise InputError(f"the payload's scale must be 1 to {EIGHTHS - 1} eighths")
        image = codec.decode(body[1:], *scaled_size(geometry, body[0]))
        image = resize(image, geometry.height, geometry.width)
    else:
        image = codec.decode(body, geometry.height, geometry.width)
    return Evidence(geometry.cut(image[None])[0], np.arange(geometry.patches))


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Scale an image: a mean over areas when it shrinks, bicubic when it grows."""
    shrinks = height < image.shape[0]
    kernel = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((width, height), kernel))


def _unpack_raw(body: bytes, geometry: Geometry, depth: int) -> Evidence:
    n, p = geometry.patches, geometry.patch
    if len(body) > (2 * n.bit_length() + n + 8 + n * 3 * p * p * 8) // 8:
        raise InputError("the payload is longer than all raw patches")
    positions, length = _index_bits_of(body, geometry)
    k = len(positions)
    if k == 0:
        raise InputError("the payload holds no patches")
    bits = np.unpackbits(np.frombuffer(body, dtype=np.uint8))
    end = length + k * 3 * p * p * depth
    if len(bits) != end + -end % 8 or bits[end:].any():
        raise InputError(
            f"{k} raw patches take {1 + -(-end // 8)} bytes ending in zero bits, got {1 + len(body)}"
        )
    samples = np.packbits(bits[length:end].reshape(-1, depth), axis=1)[:, 0]
    if depth < 8:
        samples |= 1 << (7 - depth)  # the middle of what the lost bits could have been
    return Evidence(samples.reshape(k, p, p, 3), positions)


def _indices(body: bytes, geometry: Geometry) -> tuple[Indices, int]:
    """Read a set of indices that is padded to a byte; return it and where the rest begins."""
    positions, length = _index_bits_of(body, geometry)
    start = -(-length // 8)
    padding = 8 * start - length
    if padding and body[start - 1] & ((1 << padding) - 1):
        raise InputError("the padding after the index set is not zero")
    return positions, start


def _index_bits_of(body: bytes, geometry: Geometry) -> tuple[Indices, int]:
    n = geometry.patches
    head = body[: 1 + (n.bit_length() + n + 8) // 8]
    text = format(int.from_bytes(head, "big"), f"0{8 * len(head)}b") if head else ""
    chosen, length = decode_indices(text, n)
    return np.array(chosen, dtype=np.int64), length


def _mosaic_shape(k: int) -> tuple[int, int]:
    cols = isqrt(k - 1) + 1
    return -(-k // cols), cols


def _head(kind: Kind, detail: int) -> bytes:
    """Write kind and detail, as version 1 where it can say them."""
    number = _KINDS.index(kind)
    if kind == "raw" or (number < 4 and detail < FIRST_CODECS):
        return bytes([1 << 5 | number << 3 | detail])
    return bytes([2 << 5 | number, detail])


def _read_head(payload: bytes) -> tuple[Kind, int, int]:
    """Read kind and detail, and where the rest begins."""
    if not payload:
        raise InputError("the payload is empty")
    version = payload[0] >> 5
    if version not in VERSIONS:
        raise InputError(
            f"the payload has version {version}, this server reads versions {VERSIONS[0]} to {VERSIONS[-1]}"
        )
    if version == 1:
        kind, detail = _KINDS[payload[0] >> 3 & 3], payload[0] & 7
        if kind != "raw" and detail >= FIRST_CODECS:
            raise InputError(f"the payload names an unknown codec ({detail})")
        return kind, detail, 1
    number = payload[0] & 31
    if len(payload) < 2:
        raise InputError("the payload is cut short")
    if number >= len(_KINDS):
        raise InputError(
            f"the payload has an unknown kind ({number}); a newer release of sparing may read it"
        )
    kind, detail = _KINDS[number], payload[1]
    if payload[:2] != _head(kind, detail):
        raise InputError("the payload is not in its shortest form: version 1 says the same")
    return kind, detail, 2
