"""The k largest probabilities and their classes."""

import re
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from sparing.cache.encodings import grid, packing
from sparing.cache.encodings.encoding import Encoding, Float32, Stored
from sparing.errors import InputError


@dataclass(frozen=True)
class Lists(Encoding):
    """The k most probable classes, most probable first: k class indices, then k numbers.

    The first number stands for what the other C - k classes have in sum, the missing mass, the others for the
    ratios to the largest probability. (PURE's Table 10 says of such rows both that they are renormalised,
    which makes a top-1 row certain, and that top-1 keeps its probability.)

    Attributes:
        top: k, below C.
        index_halves: half bytes of a class index: as few as C needs, or 4 with "-uint16".
        number: what a probability is stored as.
    """

    top: int
    index_halves: int
    number: str

    bits: ClassVar[dict[str, int]]
    """Bits of each number that a subclass stores."""

    @classmethod
    def parse(cls, match: re.Match[str], n_classes: int) -> Self:
        """Read k, the number and the width of the indices."""
        name, top, number = match.string, int(match["top"]), match["number"]
        if top >= n_classes:
            raise InputError(
                f"the encoding {name!r} lists {top} of {n_classes} classes: use {number} instead"
            )
        if n_classes > 1 << 16:
            raise InputError(f"the encoding {name!r} counts up to 65536 classes, not {n_classes}")
        halves = 4 if match["wide"] else -(-(n_classes - 1).bit_length() // 4)
        return cls(name, n_classes, top, halves, number)

    @property
    def number_halves(self) -> int:
        """Half bytes of a number."""
        return self.bits[self.number] // 4

    @property
    def nominal_bytes(self) -> float:
        """Bytes per row."""
        return self.top * (self.index_halves + self.number_halves) / 2

    @abstractmethod
    def numbers_of(self, listed: Float32) -> npt.NDArray[np.uint8]:
        """Return the half bytes of a list's numbers.

        Args:
            listed: shape (m, k), the largest probabilities, largest first.

        Returns:
            Shape (m, k * number_halves), values below 16.
        """

    @abstractmethod
    def listed_weights(self, stored: Stored) -> tuple[Float32, Float32]:
        """Return the weights of rows, before they are brought to sum to 1.

        Returns:
            Weights of the listed classes, shape (m, k), largest first, and of each class not listed, (m,).
        """

    def encode_block(self, probs: Float32) -> Stored:
        """Find the k largest of each row, and pack their classes and numbers."""
        c, top = self.n_classes, self.top
        # Non-negative floats sort like their bits; among equal ones the lower class index comes first.
        bits = (probs + np.float32(0)).view(np.uint32).astype(np.uint64)
        keys = bits << np.uint64(32) | np.arange(c - 1, -1, -1, dtype=np.uint64)
        keys = np.sort(np.partition(keys, c - top, axis=1)[:, c - top :], axis=1)[:, ::-1]
        listed = (keys >> np.uint64(32)).astype(np.uint32).view(np.float32)
        index = np.uint64(c - 1) - (keys & np.uint64(0xFFFFFFFF))
        return packing.pack(np.hstack([packing.halves_of(index, self.index_halves), self.numbers_of(listed)]))

    def index(self, stored: Stored) -> npt.NDArray[np.unsignedinteger]:
        """Return the listed classes, most probable first: shape (m, k)."""
        if self.index_halves == 2:
            return stored[:, : self.top]
        halves = packing.unpack(stored, self.top * (self.index_halves + self.number_halves))
        return packing.from_halves(halves[:, : self.top * self.index_halves], self.index_halves, np.uint16)

    def numbers(self, stored: Stored) -> npt.NDArray[np.uint8]:
        """Return the half bytes of the numbers: what `numbers_of` gave."""
        index, numbers = self.top * self.index_halves, self.top * self.number_halves
        if index % 2 == 0:
            return packing.unpack(stored[:, index // 2 :], numbers)
        return packing.unpack(stored, index + numbers)[:, index:]

    def decode(self, stored: Stored) -> Float32:
        """Return the listed weights, and what is missing spread over the other classes."""
        listed, unlisted = self.listed_weights(stored)
        weights = np.repeat(unlisted[:, None], self.n_classes, axis=1)
        np.put_along_axis(weights, self.index(stored).astype(np.int64), listed, axis=1)
        weights /= weights.sum(axis=1, keepdims=True)
        return weights

    def classes(self, stored: Stored) -> npt.NDArray[np.int64]:
        """Return the first listed class of each row."""
        return self.index(stored)[:, 0].astype(np.int64)


@dataclass(frozen=True)
class Int4Lists(Lists):
    """Lists of levels of 4 bits: the missing mass on a square-root scale, ratios on the power-law grid."""

    pattern: ClassVar[str] = r"top(?P<top>[1-9]\d*)-(?P<number>int4)(?P<wide>-uint16)?"
    forms: ClassVar[str] = "top<k>-int4, with -uint16 for 16-bit class indices"
    bits: ClassVar[dict[str, int]] = {"int4": 4}
    uniform: ClassVar[bool] = False

    def numbers_of(self, listed: Float32) -> npt.NDArray[np.uint8]:
        """Return the levels."""
        levels = grid.ratio_levels(listed, 15)
        # The first ratio is always 1: its place holds the missing mass.
        levels[:, 0] = grid.missing_levels(listed, self.n_classes)
        return levels

    def listed_weights(self, stored: Stored) -> tuple[Float32, Float32]:
        """Return the weights of the levels."""
        levels = self.numbers(stored)
        listed = grid.weights_of(15, uniform=False)[levels]
        listed[:, 0] = grid.FIRST
        return listed, grid.unlisted_weight(levels[:, 0], listed, self.n_classes)

    def loop(self, score: int) -> Callable[[Stored, Float32], None]:
        """Return a loop over the listed classes."""
        from sparing.numerics.kernels.lists import score_lists

        work = partial(
            score_lists,
            first=self.top * self.index_halves,
            tables=_tables(self.top, self.n_classes, self.uniform),
            uniform=self.uniform,
            unlisted=np.float32(self.n_classes - self.top),
            what=score,
        )
        return lambda rows, out: work(rows, listed=np.empty(self.top, np.float32), out=out)


@dataclass(frozen=True)
class UniformLists(Int4Lists):
    """The form in the caption of PURE's Table 10: an even grid, and nothing kept of what is not listed."""

    pattern: ClassVar[str] = Int4Lists.pattern + "-uniform"
    forms: ClassVar[str] = "either with -uniform"
    uniform: ClassVar[bool] = True

    def numbers_of(self, listed: Float32) -> npt.NDArray[np.uint8]:
        """Return the levels."""
        return grid.uniform_levels(listed, 15)

    def listed_weights(self, stored: Stored) -> tuple[Float32, Float32]:
        """Return the weights of the levels; classes not listed have none."""
        listed = grid.weights_of(15, uniform=True)[self.numbers(stored)]
        # Nothing is left of a row whose listed probabilities all round to zero but its first class.
        listed[listed[:, 0] == 0, 0] = 1
        return listed, np.zeros(len(stored), dtype=np.float32)

    def classes(self, stored: Stored) -> npt.NDArray[np.int64]:
        """Return the most probable class of each row, of equal ones the first."""
        classes: npt.NDArray[np.int64] = self.decode(stored).argmax(axis=1)
        return classes


@cache
def _tables(top: int, n_classes: int, uniform: bool) -> Float32:
    shares = grid.unlisted_share(np.arange(16, dtype=np.uint8), top, n_classes)
    return np.stack([grid.weights_of(15, uniform), shares.astype(np.float32)])
