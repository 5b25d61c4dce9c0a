"""WebP, JPEG and AVIF without what the receiver knows: container headers, sizes, tables.

A 32x32 image in 100 bytes of AV1 comes in a file of 390. Both sides know the size of the image, so the
receiver can build the rest again: for WebP from the format's definition, for JPEG and AVIF by coding a
template of the same size with the same settings. The sender checks that what the receiver will build is the
file itself; `digests` lets both sides check beforehand that their libraries build the same templates.
"""

import hashlib
import io
import struct
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from sparing.errors import InputError

Pixels = npt.NDArray[np.uint8]
CODECS = ("webp", "jpeg", "avif")

QUALITIES = 101
"""Qualities are 0 to 100."""

_VP8_START = b"\x9d\x01\x2a"
_AVIF_OPTIONS = {"speed": 6, "subsampling": "4:2:0", "range": "full", "max_threads": 1, "autotiling": False}


def encode(image: Pixels, codec: str, quality: int) -> bytes | None:
    """Code an image and strip what the receiver knows.

    Args:
        image: shape (H, W, 3), RGB.
        codec: "webp", "jpeg" or "avif".
        quality: 0 to 100.

    Returns:
        The stripped bytes; None in the rare case that the receiver could not build the file from them.
    """
    height, width, _ = image.shape
    file = _save(image, codec, quality)
    try:
        stripped = _STRIP[codec](file, height, width, quality)
        rebuilt: bytes = _RESTORE[codec](stripped, height, width)
        return stripped if rebuilt == file else None
    except (InputError, IndexError, ValueError, struct.error):
        return None


def decode(data: bytes, codec: str, height: int, width: int) -> Pixels:
    """Build the file again and decode it.

    Args:
        data: what `encode` gave.
        codec: which codec.
        height: rows of pixels, known to both sides.
        width: columns of pixels.

    Returns:
        Shape (height, width, 3).

    Raises:
        InputError: damaged, cut short, or of another size than agreed.
    """
    file = _RESTORE[codec](data, height, width)
    try:
        with Image.open(io.BytesIO(file), formats=[codec.upper()]) as opened:
            if opened.size != (width, height):
                raise InputError(f"the {codec} image is {opened.size}, expected {(width, height)}")
            return np.asarray(opened.convert("RGB"))
    except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
        # Pillow's readers raise any of these, RuntimeError where libavif gives up.
        raise InputError(f"the {codec} image is damaged ({error})") from error


def digests(height: int, width: int) -> dict[str, str]:
    """Describe the templates that this machine's libraries build, by codec; WebP needs none."""
    return {
        "jpeg": hashlib.sha256(_jpeg_header(height, width, 50)).hexdigest()[:16],
        "avif": hashlib.sha256(b"".join(_avif_template(height, width))).hexdigest()[:16],
    }


def _save(image: Pixels, codec: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    pillow = Image.fromarray(image)
    if codec == "webp":
        pillow.save(buffer, "WEBP", quality=quality, method=6)
    elif codec == "jpeg":
        pillow.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    else:
        pillow.save(buffer, "AVIF", quality=quality, **_AVIF_OPTIONS)
    return buffer.getvalue()


# WebP: RIFF size "WEBP" "VP8 " size, then the frame: tag (3 bytes), start code (3), width, height (2 each).
# Of the tag only the size of the first partition is unknown, 19 bits, of which small images use 16.


def _strip_webp(file: bytes, _height: int, _width: int, _quality: int) -> bytes:
    size = struct.unpack("<I", file[16:20])[0]
    frame = file[20 : 20 + size]
    tag = int.from_bytes(frame[:3], "little")
    return struct.pack("<H", tag >> 5) + frame[10:]


def _restore_webp(data: bytes, height: int, width: int) -> bytes:
    if len(data) < 2:
        raise InputError("the webp image is cut short")
    tag = struct.unpack("<H", data[:2])[0] << 5 | 1 << 4  # a key frame, version 0, shown
    frame = tag.to_bytes(3, "little") + _VP8_START + struct.pack("<HH", width, height) + data[2:]
    chunk = b"VP8 " + struct.pack("<I", len(frame)) + frame + b"\0" * (len(frame) % 2)
    file: bytes = b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
    return file


# JPEG: all before the scan follows from size and quality, which takes one byte.


def _strip_jpeg(file: bytes, height: int, width: int, quality: int) -> bytes:
    return bytes([quality]) + file[len(_jpeg_header(height, width, quality)) : -2]


def _restore_jpeg(data: bytes, height: int, width: int) -> bytes:
    if not data or data[0] >= QUALITIES:
        raise InputError("the jpeg image has no quality from 0 to 100")
    scan = data[1:]
    # Inside a scan every 0xff is followed by 0x00; a marker there could start another image.
    if scan.count(b"\xff") != scan.count(b"\xff\x00"):
        raise InputError("the jpeg image has a marker inside its scan")
    return _jpeg_header(height, width, data[0]) + scan + b"\xff\xd9"


@lru_cache(maxsize=512)
def _jpeg_header(height: int, width: int, quality: int) -> bytes:
    file = _save(np.zeros((height, width, 3), dtype=np.uint8), "jpeg", quality)
    start = file.index(b"\xff\xda") + 2
    header: bytes = file[: start + int.from_bytes(file[start : start + 2], "big")]
    return header


# AVIF: boxes, then in `mdat` the OBUs: temporal delimiter and sequence header (from the template), and one
# frame, whose size follows from the length. The boxes differ from the template's in two sizes.


def _strip_avif(file: bytes, height: int, width: int, _quality: int) -> bytes:
    start = file.index(b"mdat") + 4
    _, opening = _avif_template(height, width)
    rest = file[start + len(opening) :]
    _, used = _leb128(rest[1:])
    return rest[1 + used :]


def _restore_avif(data: bytes, height: int, width: int) -> bytes:
    boxes, opening = _avif_template(height, width)
    frame = b"\x32" + _to_leb128(len(data)) + data
    payload = opening + frame
    at = boxes.index(b"iloc")
    # iloc: type (4), version and flags (4), sizes (2), count (2), item (2), reference (2), extents (2),
    # then one extent's offset (4) and length (4).
    cut = at + 22
    file: bytes = (
        boxes[:cut]
        + struct.pack(">I", len(payload))
        + boxes[cut + 4 : -8]
        + struct.pack(">I", len(payload) + 8)
        + b"mdat"
        + payload
    )
    return file


@lru_cache(maxsize=512)
def _avif_template(height: int, width: int) -> tuple[bytes, bytes]:
    """Give the boxes up to and with the header of `mdat`, and the OBUs before the frame."""
    shade = np.linspace(0, 255, height * width * 3).astype(np.uint8).reshape(height, width, 3)
    file = _save(shade, "avif", 50)
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


_STRIP: dict[str, Callable[[bytes, int, int, int], bytes]] = {
    "webp": _strip_webp,
    "jpeg": _strip_jpeg,
    "avif": _strip_avif,
}
_RESTORE: dict[str, Callable[[bytes, int, int], bytes]] = {
    "webp": _restore_webp,
    "jpeg": _restore_jpeg,
    "avif": _restore_avif,
}
