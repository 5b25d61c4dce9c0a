"""WebP without its container and frame header.

The file is RIFF, size, "WEBP", "VP8 ", size, then the frame: tag (3 bytes), start code (3), width and height
(2 each). Of the tag only the size of the first partition is unknown, 19 bits, of which small images use 16.
"""

import struct

from sparing.errors import InputError
from sparing.offload.codecs.codec import Pixels
from sparing.offload.codecs.stripped import StrippedFile, save_as

_START = b"\x9d\x01\x2a"


class Webp(StrippedFile):
    """WebP, lossy: a codec of the registry."""

    name, number, qualities = "webp", 0, 100
    file_format = "WEBP"

    def save(self, image: Pixels, quality: int) -> bytes:
        """Code an image as a file."""
        return save_as("WEBP", image, quality=quality, method=6)

    def strip(self, file: bytes, height: int, width: int, quality: int) -> bytes:  # noqa: ARG002
        """Keep the size of the first partition, and what follows the frame's header."""
        size = struct.unpack("<I", file[16:20])[0]
        frame = file[20 : 20 + size]
        tag = int.from_bytes(frame[:3], "little")
        return struct.pack("<H", tag >> 5) + frame[10:]

    def restore(self, data: bytes, height: int, width: int) -> bytes:
        """Build the file again."""
        if len(data) < 2:
            raise InputError("the webp image is cut short")
        tag = struct.unpack("<H", data[:2])[0] << 5 | 1 << 4  # a key frame, version 0, shown
        frame = tag.to_bytes(3, "little") + _START + struct.pack("<HH", width, height) + data[2:]
        return riff(b"VP8 ", frame)


def riff(kind: bytes, frame: bytes) -> bytes:
    """Put a frame into WebP's container."""
    chunk = kind + struct.pack("<I", len(frame)) + frame + b"\0" * (len(frame) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
