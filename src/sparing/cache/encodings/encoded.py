"""Some rows of a cache as they are stored, and the distributions that they stand for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sparing.cache.encodings import grid, packing

if TYPE_CHECKING:
    from sparing.cache.encodings.encoding import Encoding


@dataclass(frozen=True, eq=False)
class Encoded:
    """Encoded distributions of m samples.

    Attributes:
        encoding: how they are encoded.
        stored: shape (m, C) of float32, float16 or (int8) levels; or rows of packed half bytes: C levels
            (int4), or k class indices and then k levels (top-k).
        compiled: whether they are part of a table that is large enough to be scored by compiled loops.
    """

    encoding: "Encoding"
    stored: npt.NDArray[Any]
    compiled: bool = False

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: Any) -> "Encoded":
        return Encoded(self.encoding, self.stored[rows], self.compiled)

    def levels(self) -> npt.NDArray[np.uint8]:
        """Give the levels of an integer encoding.

        Returns:
            Shape (m, C), or (m, k) for top-k, whose first column is the level of the missing mass.
        """
        form = self.encoding
        if form.number == "int8":
            return self.stored
        if form.top is None:
            return packing.unpack(self.stored, form.n_classes)
        index = form.top * form.index_halves
        if index % 2 == 0:
            return packing.unpack(self.stored[:, index // 2 :], form.top)
        return packing.unpack(self.stored, index + form.top)[:, index:]

    def index(self) -> npt.NDArray[Any]:
        """Give the listed classes of a top-k encoding, most probable first.

        Returns:
            Shape (m, k), unsigned integers.
        """
        form = self.encoding
        top = form.top or 0
        if form.index_halves == 2:
            return self.stored[:, :top]
        halves = packing.unpack(self.stored, top * (form.index_halves + 1))[:, : top * form.index_halves]
        digits = halves.reshape(len(self), top, form.index_halves).astype(np.uint16)
        shifted: npt.NDArray[np.uint16] = digits << np.arange(0, 4 * form.index_halves, 4, dtype=np.uint16)
        index: npt.NDArray[np.uint16] = np.bitwise_or.reduce(shifted, axis=2)
        return index

    def listed_weights(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Give the weights of a top-k encoding, before rows are brought to sum to 1.

        Returns:
            Weights of the listed classes, shape (m, k), largest first, and of each class not listed, (m,).
        """
        form = self.encoding
        levels = self.levels()
        listed = grid.weights_of(form.steps, form.uniform)[levels]
        if form.uniform:
            # Nothing is left of a row whose listed probabilities all round to zero but its first class.
            listed[listed[:, 0] == 0, 0] = 1
            return listed, np.zeros(len(self), dtype=np.float32)
        listed[:, 0] = grid.FIRST
        return listed, grid.unlisted_weight(levels[:, 0], listed, form.n_classes)

    def decode(self) -> npt.NDArray[np.float32]:
        """Give the distributions.

        Returns:
            Shape (m, C), float32, rows summing to 1. The largest entry is at the class that was largest
            before encoding, except on a uniform grid, where rounding may level it with others.
        """
        form = self.encoding
        if form.number == "float32":
            return self.stored
        if form.number == "float16":
            weights = _from_halves(self.stored)
        elif form.top is None:
            weights = grid.weights_of(form.steps, form.uniform)[self.levels()]
            if form.uniform:
                weights[weights.max(axis=1) == 0] = 1
        else:
            listed, unlisted = self.listed_weights()
            weights = np.repeat(unlisted[:, None], form.n_classes, axis=1)
            np.put_along_axis(weights, self.index().astype(np.int64), listed, axis=1)
        weights /= weights.sum(axis=1, keepdims=True)
        return weights

    def classes(self) -> npt.NDArray[np.int64]:
        """Give the most probable class of each row.

        Returns:
            Shape (m,), int64: what `decode().argmax(axis=1)` gives.
        """
        form = self.encoding
        if form.top is not None and not form.uniform:
            return self.index()[:, 0].astype(np.int64)
        values: npt.NDArray[Any]
        if form.number == "float16":
            # Non-negative halves sort like their bits, and integers compare much faster.
            values = self.stored.view(np.uint16)
        elif form.uniform:
            values = self.decode()
        else:
            values = self.stored if form.number == "float32" else self.levels()
        classes: npt.NDArray[np.int64] = values.argmax(axis=1)
        return classes


def _from_halves(halves: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Read non-negative float16 as float32, ten times as fast as `astype`, exactly.

    A half's bits, moved to a float's places, lack only the larger exponent bias: 2**112.
    """
    bits = halves.view(np.uint16).astype(np.uint32)
    bits <<= np.uint32(13)
    floats = bits.view(np.float32)
    floats *= np.float32(2.0**112)
    return floats
