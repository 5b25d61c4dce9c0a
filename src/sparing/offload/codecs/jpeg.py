"""JPEG without all before its scan, which follows from size and quality; the quality takes one byte."""

from functools import lru_cache

import numpy as np

from sparing.errors import InputError
from sparing.offload.codecs.codec import Pixels
from sparing.offload.codecs.stripped import StrippedFile, save_as

_HIGHEST = 100


class Jpeg(StrippedFile):
    """JPEG, baseline: a codec of the registry."""

    name, number, qualities = "jpeg", 1, 100
    file_format = "JPEG"

    def save(self, image: Pixels, quality: int) -> bytes:
        """Code an image as a file."""
        return save_as("JPEG", image, quality=quality, subsampling="4:2:0")

    def strip(self, file: bytes, height: int, width: int, quality: int) -> bytes:
        """Keep the scan, behind the quality."""
        return bytes([quality]) + file[len(_header(height, width, quality)) : -2]

    def restore(self, data: bytes, height: int, width: int) -> bytes:
        """Build the file again."""
        if not data or data[0] > _HIGHEST:
            raise InputError(f"the jpeg image has no quality from 0 to {_HIGHEST}")
        scan = data[1:]
        # Inside a scan every 0xff is followed by 0x00; a marker there could start another image.
        if scan.count(b"\xff") != scan.count(b"\xff\x00"):
            raise InputError("the jpeg image has a marker inside its scan")
        return _header(height, width, data[0]) + scan + b"\xff\xd9"

    def template(self, height: int, width: int) -> bytes:
        """Return the header at one quality."""
        return _header(height, width, 50)


@lru_cache(maxsize=512)
def _header(height: int, width: int, quality: int) -> bytes:
    file = Jpeg().save(np.zeros((height, width, 3), dtype=np.uint8), quality)
    start = file.index(b"\xff\xda") + 2
    return file[: start + int.from_bytes(file[start : start + 2], "big")]
