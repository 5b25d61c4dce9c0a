"""The k largest probabilities with more than 4 bits each: the other cells of PURE's Table 11."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy

from sparing.cache.encodings import grid, packing
from sparing.cache.encodings.encoding import Float32, Stored
from sparing.cache.encodings.lists import Lists


@dataclass(frozen=True)
class WideLists(Lists):
    """Lists of numbers in [0, 1]: the missing mass relative to the most it can be, then ratios.

    Floats store them as they are, int8 as levels of the power-law grid.
    """

    pattern: ClassVar[str] = r"top(?P<top>[1-9]\d*)-(?P<number>int8|float16|float32)(?P<wide>-uint16)?"
    forms: ClassVar[str] = "top<k>-int8, top<k>-float16, top<k>-float32, each with -uint16"
    bits: ClassVar[dict[str, int]] = {"int8": 8, "float16": 16, "float32": 32}

    def numbers_of(self, listed: Float32) -> npt.NDArray[np.uint8]:
        """Return the half bytes of the missing share and of the ratios."""
        numbers = listed / listed[:, :1]
        missing = (1 - listed.sum(axis=1, dtype=np.float64)) / self._most
        # The first ratio is always 1: its place holds what is missing.
        numbers[:, 0] = np.clip(missing, 0, 1)
        codes: npt.NDArray[np.unsignedinteger]
        if self.number == "int8":
            codes = np.rint(np.sqrt(np.sqrt(numbers)) * 255).astype(np.uint8)
        elif self.number == "float16":
            codes = numbers.astype(np.float16).view(np.uint16)
        else:
            codes = numbers.view(np.uint32)
        return packing.halves_of(codes, self.number_halves)

    def listed_weights(self, stored: Stored) -> tuple[Float32, Float32]:
        """Return the ratios, and what is missing spread evenly, at most as much as the last listed has."""
        kinds: dict[str, type[np.unsignedinteger]]
        kinds = {"int8": np.uint8, "float16": np.uint16, "float32": np.uint32}
        codes = packing.from_halves(self.numbers(stored), self.number_halves, kinds[self.number])
        if self.number == "int8":
            listed = grid.weights_of(255, uniform=False)[codes]
        else:
            listed = codes.view(self.number).astype(np.float32)
        missing = listed[:, 0] * self._most
        listed[:, 0] = grid.FIRST
        share = missing / (1 - missing) / (self.n_classes - self.top) * listed.sum(axis=1)
        return listed, np.minimum(share, np.minimum(listed[:, -1], 1)).astype(np.float32)

    def loop(self, score: int) -> Callable[[Stored, Float32], None]:
        """Return a function that scores lists, without spreading them over all classes."""
        from sparing.numerics.kernels.uncertainty import ENTROPY, MARGIN

        unlisted = self.n_classes - self.top

        def work(rows: Stored, out: Float32) -> None:
            listed, rest = self.listed_weights(rows)
            total = listed.sum(axis=1) + rest * unlisted
            if score == ENTROPY:
                inner = xlogy(listed, listed).sum(axis=1) + xlogy(rest, rest) * unlisted
                out[:] = np.maximum(np.log(total) - inner / total, 0)
            elif score == MARGIN:
                second = listed[:, 1] if self.top > 1 else rest
                out[:] = (listed[:, 0] - second) / total
            else:
                out[:] = 1 - listed[:, 0] / total

        return work

    @property
    def _most(self) -> np.float32:
        return np.float32(1 - self.top / self.n_classes)
