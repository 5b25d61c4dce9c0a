"""Encodings by name: what a cache column holds per row, and how distributions get into it."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.cache.encodings import grid, packing
from sparing.cache.encodings.encoded import Encoded
from sparing.errors import InputError

DEFAULT = "float16"

_BLOCK = 8192
_FORMS = (
    "write float32, float16, int8, int4 or top<k>-int4, the last three with -uniform for an even grid, "
    "and top<k>-int4-uint16 for 16-bit class indices"
)


@dataclass(frozen=True)
class Encoding:
    """How each distribution of a cache is stored (PURE, Table 10).

    Attributes:
        name: for example "float16", "int4", "top8-int4", "top1-int4-uint16" or "int4-uniform".
        n_classes: length C of every distribution.
        number: what a probability is stored as.
        top: how many of the largest probabilities are stored; None for all.
        index_halves: half bytes of a class index beside them: as few as C needs, or 4 with "-uint16".
        uniform: whether levels are evenly spaced and what is not listed counts as zero, as in the caption of
            Table 10; else they follow a power law and the missing mass is kept (see `grid`).
    """

    name: str
    n_classes: int
    number: Literal["float32", "float16", "int8", "int4"]
    top: int | None = None
    index_halves: int = 0
    uniform: bool = False

    @classmethod
    def parse(cls, name: str, n_classes: int) -> "Encoding":
        """Read an encoding's name.

        Args:
            name: as in `name` above.
            n_classes: C, at least 2.

        Raises:
            InputError: not understood, or not possible with so many classes.
        """
        match = re.fullmatch(
            r"(?P<number>float32|float16)|((top(?P<top>[1-9]\d*)-int4(?P<wide>-uint16)?)"
            r"|(?P<level>int8|int4))(?P<uniform>-uniform)?",
            name,
        )
        if match is None:
            raise InputError(f"there is no encoding {name!r}: {_FORMS}")
        found = match.groupdict()
        number: Any = found["number"] or found["level"] or "int4"
        if found["top"] is None:
            return cls(name, n_classes, number, uniform=found["uniform"] is not None)
        top = int(found["top"])
        if top >= n_classes:
            raise InputError(f"the encoding {name!r} lists {top} of {n_classes} classes: use int4 instead")
        if n_classes > 1 << 16:
            raise InputError(f"the encoding {name!r} counts up to 65536 classes, not {n_classes}")
        halves = 4 if found["wide"] else -(-(n_classes - 1).bit_length() // 4)
        return cls(name, n_classes, number, top, halves, found["uniform"] is not None)

    @property
    def nominal_bytes(self) -> float:
        """Bytes that a row's distribution takes, apart from its id and state; half bytes count."""
        if self.top is not None:
            return self.top * (self.index_halves + 1) / 2
        return self.n_classes * {"float32": 4, "float16": 2, "int8": 1, "int4": 0.5}[self.number]

    @property
    def steps(self) -> int:
        """The highest level of an integer encoding."""
        return 255 if self.number == "int8" else 15

    @property
    def arrow_type(self) -> pa.DataType:
        """The column type that holds one distribution per row."""
        if self.number == "float32":
            return pa.list_(pa.float32(), self.n_classes)
        if self.number == "float16":
            return pa.list_(pa.float16(), self.n_classes)
        return packing.column_type(int(2 * self.nominal_bytes))

    def encode(self, probs: npt.NDArray[np.float32]) -> Encoded:
        """Encode distributions.

        Args:
            probs: shape (m, C), float32, rows summing to 1.

        Returns:
            The m rows, encoded.
        """
        # Block by block, so that what the steps in between need does not grow with the rows.
        blocks = [self._encode(probs[at : at + _BLOCK]) for at in range(0, max(len(probs), 1), _BLOCK)]
        return Encoded(self, blocks[0] if len(blocks) == 1 else np.concatenate(blocks))

    def to_column(self, encoded: Encoded) -> pa.Array:
        """Turn encoded rows into a column of `arrow_type`."""
        if self.number in ("float32", "float16"):
            flat = pa.array(np.ascontiguousarray(encoded.stored).ravel())
            return pa.FixedSizeListArray.from_arrays(flat, self.n_classes)
        return packing.to_column(encoded.stored, self.arrow_type)

    def from_column(self, column: pa.Array, compiled: bool = False) -> Encoded:
        """Undo `to_column`; copies nothing but odd half bytes.

        Args:
            column: a column of `arrow_type`.
            compiled: see `Encoded`.
        """
        if self.number in ("float32", "float16"):
            flat = column.flatten().to_numpy(zero_copy_only=False)
            return Encoded(self, flat.reshape(-1, self.n_classes), compiled)
        return Encoded(self, packing.from_column(column), compiled)

    def _encode(self, probs: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        if self.top is not None:
            return self._encode_top(probs, self.top)
        if self.number == "float32":
            return probs
        if self.number == "float16":
            halves = probs.astype(np.float16)
            grid.keep_first(halves.view(np.uint16), probs)
            return halves
        levels = (grid.uniform_levels if self.uniform else grid.ratio_levels)(probs, self.steps)
        return levels if self.number == "int8" else packing.pack(levels)

    def _encode_top(self, probs: npt.NDArray[np.float32], top: int) -> npt.NDArray[Any]:
        c = self.n_classes
        # Non-negative floats sort like their bits; among equal ones the lower class index comes first.
        bits = (probs + np.float32(0)).view(np.uint32).astype(np.uint64)
        keys = bits << np.uint64(32) | np.arange(c - 1, -1, -1, dtype=np.uint64)
        keys = np.sort(np.partition(keys, c - top, axis=1)[:, c - top :], axis=1)[:, ::-1]
        listed = (keys >> np.uint64(32)).astype(np.uint32).view(np.float32)
        index = np.uint64(c - 1) - (keys & np.uint64(0xFFFFFFFF))
        if self.uniform:
            levels = grid.uniform_levels(listed, self.steps)
        else:
            levels = grid.ratio_levels(listed, self.steps)
            # The first ratio is always 1: its place holds the missing mass.
            levels[:, 0] = grid.missing_levels(listed, c)
        shifts = np.arange(0, 4 * self.index_halves, 4, dtype=np.uint64)
        digits = (index[:, :, None] >> shifts & np.uint64(15)).astype(np.uint8)
        return packing.pack(np.concatenate([digits.reshape(len(probs), -1), levels], axis=1))


def encoded(rows: Encoded | npt.NDArray[np.float32]) -> Encoded:
    """Give rows as they are, or distributions (m, C) as rows of float32."""
    if isinstance(rows, Encoded):
        return rows
    return Encoded(Encoding("float32", rows.shape[1], "float32"), np.ascontiguousarray(rows, np.float32))
