"""The contract for codecs: what `registry` needs of a way to code an image."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Encoder = Callable[[int], bytes | None]


class Codec(Protocol):
    """A way to code an image whose size both sides know.

    To add one, write a class in a module of this package and name it in `registry`. A codec whose bytes
    change meaning gets a new name and a new number, and its old reader stays.
    """

    @property
    def name(self) -> str:
        """What schemes and policy files call it."""

    @property
    def number(self) -> int:
        """What payloads call it, 0 to 255; never used again for anything else."""

    @property
    def qualities(self) -> int:
        """How many qualities there are: 0 takes the fewest bytes, `qualities - 1` the most."""

    def encoder(self, image: Pixels) -> Encoder:
        """Prepare to code an image of shape (H, W, 3), RGB, at several qualities.

        Returns:
            From a quality to the code; or to None where this image cannot be coded at this quality.
        """

    def decode(self, data: bytes, height: int, width: int) -> Pixels:
        """Read an image back, of any content, in memory that its size bounds.

        Args:
            data: what came.
            height: rows of pixels, known to both sides.
            width: columns of pixels.

        Returns:
            Shape (height, width, 3).

        Raises:
            InputError: damaged, cut short, or of another size than agreed.
        """

    def template(self, height: int, width: int) -> bytes:
        """Return what the reader's library must make alike, to be compared; empty where nothing must be."""
