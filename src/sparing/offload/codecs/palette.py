"""Images of few colours, such as screens, drawings, maps and text: WebP's lossless coding of a palette.

The quality is the number of colours; at the highest one all are kept, and the image comes back exactly. The
file is RIFF, size, "WEBP", "VP8L", size, then the stream: a signature (1 byte), width and height less one
(14 bits each), whether there is transparency, a version (3 bits), and the coded image, which alone is sent.
"""

import struct

import numpy as np
from PIL import Image

from sparing.offload.codecs.codec import Pixels
from sparing.offload.codecs.stripped import StrippedFile, save_as
from sparing.offload.codecs.webp import riff

_COLOURS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_SIGNATURE = 0x2F


class Palette(StrippedFile):
    """A palette of 2 to 256 colours, or all colours: a codec of the registry."""

    name, number, qualities = "palette", 6, len(_COLOURS) + 1
    file_format = "WEBP"

    def save(self, image: Pixels, quality: int) -> bytes:
        """Code an image as a file."""
        if quality < len(_COLOURS):
            drawn = Image.fromarray(image).quantize(_COLOURS[quality], dither=Image.Dither.NONE)
            image = np.asarray(drawn.convert("RGB"))
        return save_as("WEBP", image, lossless=True, quality=100, method=6)

    def strip(self, file: bytes, height: int, width: int, quality: int) -> bytes:  # noqa: ARG002
        """Keep the coded image."""
        size = struct.unpack("<I", file[16:20])[0]
        return file[25 : 20 + size]

    def restore(self, data: bytes, height: int, width: int) -> bytes:
        """Build the file again."""
        sides = (width - 1) | (height - 1) << 14
        return riff(b"VP8L", struct.pack("<BI", _SIGNATURE, sides) + data)
