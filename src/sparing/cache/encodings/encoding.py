"""The contract of a cache encoding, and rows that are encoded."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.cache.encodings import packing

Float32 = npt.NDArray[np.float32]
Stored = npt.NDArray[Any]

_BLOCK = 8192


@dataclass(frozen=True)
class Encoding(ABC):
    """How each distribution of a cache is stored (PURE, Table 10).

    To add an encoding, write a subclass and add it to `sparing.cache.encodings.ENCODINGS`. Rows are stored
    as strings of half bytes (see `packing`) unless a subclass says otherwise.

    Attributes:
        name: for example "float16", "int4", "top8-int4", "top1-int4-uint16" or "int4-uniform".
        n_classes: length C of every distribution.
        version: version of what is stored; a reader refuses a later one.
        pattern: regular expression of the names.
        forms: the names, as an error message lists them.
    """

    name: str
    n_classes: int

    version: ClassVar[int] = 1
    pattern: ClassVar[str]
    forms: ClassVar[str]

    @classmethod
    def parse(cls, match: re.Match[str], n_classes: int) -> Self:
        """Return the encoding of a name that matched `pattern`.

        Raises:
            InputError: not possible with so many classes.
        """
        return cls(match.string, n_classes)

    @property
    @abstractmethod
    def nominal_bytes(self) -> float:
        """Bytes that a row's distribution takes, apart from its id and state; half bytes count."""

    @property
    def arrow_type(self) -> pa.DataType:
        """The column type that holds one distribution per row."""
        return packing.column_type(int(2 * self.nominal_bytes))

    def encode(self, probs: Float32) -> "Encoded":
        """Encode distributions.

        Args:
            probs: shape (m, C), float32, rows summing to 1.

        Returns:
            The m rows, encoded.
        """
        # Block by block, so that what the steps in between need does not grow with the rows.
        starts = range(0, max(len(probs), 1), _BLOCK)
        blocks = [self.encode_block(probs[at : at + _BLOCK]) for at in starts]
        return Encoded(self, blocks[0] if len(blocks) == 1 else np.concatenate(blocks))

    @abstractmethod
    def encode_block(self, probs: Float32) -> Stored:
        """Return what is stored of some distributions: shape (m, n)."""

    def to_column(self, encoded: "Encoded") -> pa.Array:
        """Return encoded rows as a column of `arrow_type`."""
        return packing.to_column(encoded.stored, self.arrow_type)

    def from_column(self, column: pa.Array, compiled: bool = False) -> "Encoded":
        """Undo `to_column`; copies nothing but odd half bytes.

        Args:
            column: a column of `arrow_type`.
            compiled: see `Encoded`.
        """
        return Encoded(self, packing.from_column(column), compiled)

    @abstractmethod
    def decode(self, stored: Stored) -> Float32:
        """Return the distributions that rows stand for: shape (m, C), float32, rows summing to 1."""

    def classes(self, stored: Stored) -> npt.NDArray[np.int64]:
        """Return the most probable class of each row: what `decode(stored).argmax(axis=1)` gives."""
        classes: npt.NDArray[np.int64] = self.decode(stored).argmax(axis=1)
        return classes

    def loop(self, score: int) -> Callable[[Stored, Float32], None] | None:  # noqa: ARG002 - for subclasses
        """Return a compiled loop over rows, or None where they are decoded to be scored.

        Args:
            score: ENTROPY, MARGIN or LEAST_CONFIDENCE of `sparing.numerics.kernels.uncertainty`.

        Returns:
            A function of m rows and of an array of shape (m,), float32, which it fills.
        """
        return None


@dataclass(frozen=True, eq=False)
class Encoded:
    """Encoded distributions of m samples.

    Attributes:
        encoding: how they are encoded.
        stored: shape (m, n), as the encoding stores them.
        compiled: whether they are part of a table that is large enough to be scored by compiled loops.
    """

    encoding: Encoding
    stored: Stored
    compiled: bool = False

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: Any) -> "Encoded":
        return Encoded(self.encoding, self.stored[rows], self.compiled)

    def decode(self) -> Float32:
        """Return the distributions.

        Returns:
            Shape (m, C), float32, rows summing to 1. The largest entry is at the class that was largest
            before encoding, except on a uniform grid, where rounding may level it with others.
        """
        return self.encoding.decode(self.stored)

    def classes(self) -> npt.NDArray[np.int64]:
        """Return the most probable class of each row: shape (m,)."""
        return self.encoding.classes(self.stored)
