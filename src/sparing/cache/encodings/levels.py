"""Every probability as a level from 0 to 255 or 15."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from sparing.cache.encodings import grid, packing
from sparing.cache.encodings.encoding import Encoding, Float32, Stored


@dataclass(frozen=True)
class Levels(Encoding):
    """Distributions as levels of 8 or 4 bits.

    Attributes:
        steps: the highest level, 255 or 15.
        uniform: whether levels are evenly spaced, as in the caption of Table 10; else they follow a power
            law (see `grid`).
    """

    steps: int
    uniform: bool

    pattern: ClassVar[str] = r"(?P<number>int8|int4)(?P<uniform>-uniform)?"
    forms: ClassVar[str] = "int8, int4, int8-uniform, int4-uniform"

    @classmethod
    def parse(cls, match: re.Match[str], n_classes: int) -> Self:
        """Read the number of bits and the grid."""
        steps = {"int8": 255, "int4": 15}[match["number"]]
        return cls(match.string, n_classes, steps, match["uniform"] is not None)

    @property
    def nominal_bytes(self) -> float:
        """Bytes per row."""
        return self.n_classes / (1 if self.steps == 255 else 2)

    def encode_block(self, probs: Float32) -> Stored:
        """Round them on the grid."""
        levels = (grid.uniform_levels if self.uniform else grid.ratio_levels)(probs, self.steps)
        return levels if self.steps == 255 else packing.pack(levels)

    def levels(self, stored: Stored) -> npt.NDArray[np.uint8]:
        """Return the levels: shape (m, C)."""
        return stored if self.steps == 255 else packing.unpack(stored, self.n_classes)

    def decode(self, stored: Stored) -> Float32:
        """Return the levels' weights, rows summing to 1."""
        weights = grid.weights_of(self.steps, self.uniform)[self.levels(stored)]
        if self.uniform:
            # A flat row can round to nothing.
            weights[weights.max(axis=1) == 0] = 1
        weights /= weights.sum(axis=1, keepdims=True)
        return weights

    def classes(self, stored: Stored) -> npt.NDArray[np.int64]:
        """Return the most probable class of each row."""
        values = self.decode(stored) if self.uniform else self.levels(stored)
        classes: npt.NDArray[np.int64] = values.argmax(axis=1)
        return classes

    def loop(self, score: int) -> Callable[[Stored, Float32], None]:
        """Return a loop over the levels."""
        from sparing.numerics.kernels.uncertainty import HALF_BYTES, LEVELS, score_codes

        form = LEVELS if self.steps == 255 else HALF_BYTES
        codes = partial(score_codes, form=form, steps=self.steps, uniform=self.uniform, what=score)
        return lambda rows, out: codes(rows, scratch=np.empty(self.n_classes, np.int32), out=out)
