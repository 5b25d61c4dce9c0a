"""AVIF without its boxes, sequence header and sizes.

The file is boxes, then in `mdat` the OBUs: temporal delimiter and sequence header (from the template), and
one frame, whose size follows from the length. The boxes differ from the template's in two sizes.
"""

import struct
from functools import lru_cache

import numpy as np

from sparing.errors import InputError
from sparing.offload.codecs.codec import Pixels
from sparing.offload.codecs.stripped import StrippedFile, save_as


class Avif(StrippedFile):
    """AVIF, one frame of AV1: a codec of the registry."""

    name, number = "avif", 2
    qualities = 100  # 100 itself is another coding, lossless
    file_format = "AVIF"

    def save(self, image: Pixels, quality: int) -> bytes:
        """Code an image as a file."""
        return save_as(
            "AVIF",
            image,
            quality=quality,
            speed=6,
            subsampling="4:2:0",
            range="full",
            max_threads=1,
            autotiling=False,
        )

    def strip(self, file: bytes, height: int, width: int, quality: int) -> bytes:  # noqa: ARG002
        """Keep what is in the frame."""
        start = file.index(b"mdat") + 4
        _, opening = _template(height, width)
        rest = file[start + len(opening) :]
        _, used = _leb128(rest[1:])
        return rest[1 + used :]

    def restore(self, data: bytes, height: int, width: int) -> bytes:
        """Build the file again."""
        boxes, opening = _template(height, width)
        payload = opening + b"\x32" + _to_leb128(len(data)) + data
        # iloc: type (4), version and flags (4), sizes (2), count (2), item (2), reference (2), extents (2),
        # then one extent's offset (4) and length (4).
        cut = boxes.index(b"iloc") + 22
        return (
            boxes[:cut]
            + struct.pack(">I", len(payload))
            + boxes[cut + 4 : -8]
            + struct.pack(">I", len(payload) + 8)
            + b"mdat"
            + payload
        )

    def template(self, height: int, width: int) -> bytes:
        """Return the boxes and the OBUs before the frame, at one quality."""
        return b"".join(_template(height, width))


@lru_cache(maxsize=512)
def _template(height: int, width: int) -> tuple[bytes, bytes]:
    """Return the boxes up to and with the header of `mdat`, and the OBUs before the frame."""
    shade = np.linspace(0, 255, height * width * 3).astype(np.uint8).reshape(height, width, 3)
    file = Avif().save(shade, 50)
    start = file.index(b"mdat") + 4
    at = start
    while file[at] >> 3 & 15 != 6:  # until the OBU that is a frame
        size, used = _leb128(file[at + 1 :])
        at += 1 + used + size
    return file[:start], file[start:at]


def _leb128(data: bytes) -> tuple[int, int]:
    value = 0
    for at, byte in enumerate(data[:8]):
        value |= (byte & 127) << (7 * at)
        if byte < 128:
            return value, at + 1
    raise InputError("a size in the avif image is cut short")


def _to_leb128(value: int) -> bytes:
    coded = bytearray()
    while value >= 128:
        coded.append(value & 127 | 128)
        value >>= 7
    return bytes([*coded, value])
