"""Image files without what the receiver knows: container headers, sizes, tables.

A 32x32 image in 100 bytes of AV1 comes in a file of 390. Both sides know the size of the image, so the
receiver can build the rest again: from the format's definition, or by coding a template of the same size with
the same settings. The sender checks that what the receiver will build is the file itself; `Codec.template`
lets both sides check beforehand that their libraries build the same one.
"""

import io
import struct
from abc import ABC, abstractmethod

import numpy as np
from PIL import Image

from sparing.errors import InputError
from sparing.offload.codecs.codec import Encoder, Pixels


class StrippedFile(ABC):
    """A codec whose code is a file of Pillow's, less what `strip` leaves out and `restore` puts back.

    Attributes:
        file_format: what Pillow calls the format.
    """

    file_format: str

    @abstractmethod
    def save(self, image: Pixels, quality: int) -> bytes:
        """Code an image as a file."""

    @abstractmethod
    def strip(self, file: bytes, height: int, width: int, quality: int) -> bytes:
        """Leave out what `restore` can build from the size alone."""

    @abstractmethod
    def restore(self, data: bytes, height: int, width: int) -> bytes:
        """Build the file again.

        Raises:
            InputError: cut short, or nothing that `strip` leaves.
        """

    def encoder(self, image: Pixels) -> Encoder:
        """Prepare to code an image; see `Codec`."""
        height, width, _ = image.shape

        def encode(quality: int) -> bytes | None:
            file = self.save(image, quality)
            try:
                stripped = self.strip(file, height, width, quality)
                # None in the rare case that the receiver could not build the file.
                return stripped if self.restore(stripped, height, width) == file else None
            except (InputError, IndexError, ValueError, struct.error):
                return None

        return encode

    def decode(self, data: bytes, height: int, width: int) -> Pixels:
        """Build the file again and decode it; see `Codec`."""
        file, name = self.restore(data, height, width), self.file_format.lower()
        try:
            with Image.open(io.BytesIO(file), formats=[self.file_format]) as opened:
                if opened.size != (width, height):
                    raise InputError(f"the {name} image is {opened.size}, expected {(width, height)}")
                return np.asarray(opened.convert("RGB"))
        except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
            # Pillow's readers raise any of these, RuntimeError where libavif gives up.
            raise InputError(f"the {name} image is damaged ({error})") from error

    def template(self, height: int, width: int) -> bytes:  # noqa: ARG002 - for those that have one
        """Return nothing: the format's definition says it all."""
        return b""


def save_as(file_format: str, image: Pixels, **options: object) -> bytes:
    """Code an image as a file of Pillow's."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, file_format, **options)
    return buffer.getvalue()
