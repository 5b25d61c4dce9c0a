"""The rows of a cache as features: in memory where they fit, else read again for every slice."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.cache import Rows, Store
from sparing.data.columns import SampleColumns
from sparing.numerics.selection import tie_keys
from sparing.refresh.learned.features import FeatureEncoder, Known, RowFeatures, fit_features, join_features

IN_MEMORY = 1_000_000_000
"""Bytes up to which the features of all rows stay in memory."""


class Pool:
    """All rows of a cache, by position in its scan.

    Memory grows by about 40 bytes a row, and by the features where those of all rows take at most `IN_MEMORY`
    bytes: 16 per row and class, and about 400 a row beside.

    Attributes:
        ids: n ids.
        keys: shape (n,), seeded hashes of the ids.
        held: shape (n,), int16, which model a row holds.
        outputs: shape (n,), int32, the most probable classes of the cached outputs.
        answers: shape (n,), int32, what rows answer now: a predicted class, or that of their output.
        imputed: shape (n,), whether it is predicted.
        encoder: what makes the features.
        small: whether the features stay in memory.
    """

    def __init__(self, cache: Store, n_classes: int, columns: SampleColumns | None, seed: int) -> None:
        """Read the cache twice, or three times where columns hold categories.

        Raises:
            InputError: the columns have none of the ids.
        """
        self._cache, self._columns, self._seed = cache, columns, seed
        ids, keys, held, answers, imputed = [], [], [], [], []
        # Classes that were added for the new model have no mass yet; they come last, and tell nothing.
        widened = any(info.classes is not None for info in cache.metadata.models)
        self._width = 2 if widened else n_classes
        for rows in cache.scan():
            if self._width < n_classes:
                self._width = max(self._width, 1 + int(np.flatnonzero(rows.probs.any(axis=0))[-1]))
            ids.append(rows.ids)
            keys.append(tie_keys(rows.ids, seed))
            held.append(rows.models.astype(np.int16))
            answers.append(rows.answers.astype(np.int32))
            imputed.append(rows.imputed)
        self.ids: pa.Array = pa.concat_arrays(ids) if ids else pa.array([], pa.string())
        self.keys = np.concatenate([np.zeros(0, np.uint64), *keys])
        self.held = np.concatenate([np.zeros(0, np.int16), *held])
        self.answers = np.concatenate([np.zeros(0, np.int32), *answers])
        self.imputed = np.concatenate([np.zeros(0, bool), *imputed])
        if columns is not None:
            columns.check(self.ids)
        self.encoder: FeatureEncoder = fit_features(
            _Chunks(self), self._width, None if columns is None else columns.kinds
        )
        self.outputs = np.where(self.imputed, self._own(), self.answers)
        self.small = len(self.ids) * self._bytes_per_row() <= IN_MEMORY
        self._parts = [self.encoder.encode(known) for known in _Chunks(self)] if self.small else []

    def __len__(self) -> int:
        return len(self.ids)

    def _own(self) -> npt.NDArray[np.int32]:
        if not self.imputed.any():
            return self.answers
        return np.concatenate([known.probs.argmax(axis=1).astype(np.int32) for known in _Chunks(self)])

    def _bytes_per_row(self) -> float:
        part = self.encoder.encode(next(iter(_Chunks(self))))
        used: int = part.inputs.data.nbytes + part.inputs.indices.nbytes + part.logs.nbytes
        return used / len(part) + 28

    def features(self) -> Iterator[RowFeatures]:
        """Yield the features of all rows, chunk by chunk, in the order of the scan."""
        if self.small:
            yield from self._parts
        else:
            yield from map(self.encoder.encode, _Chunks(self))

    def take(self, positions: npt.NDArray[np.int64]) -> RowFeatures:
        """Return the features of some rows, in the order of their positions."""
        if not self.small:
            rows, at = self.read(positions)
            return self.encoder.encode(self.known(rows)).take(at)
        ends = np.cumsum([len(part) for part in self._parts])
        where = np.searchsorted(ends, positions, side="right")
        parts, placed = [], []
        for index in np.unique(where):
            mine = np.flatnonzero(where == index)
            part = self._parts[index]
            parts.append(part.take(positions[mine] - (ends[index] - len(part))))
            placed.append(mine)
        return join_features(parts).take(np.argsort(np.concatenate(placed)))

    def read(self, positions: npt.NDArray[np.int64]) -> tuple[Rows, npt.NDArray[np.int64]]:
        """Read rows of the cache, in an order of its own, and where each position is among them."""
        rows = self._cache.take(positions)
        at = pc.index_in(self.ids.take(pa.array(positions)), value_set=rows.ids)
        return rows, at.to_numpy().astype(np.int64)

    def positions(self, ids: pa.Array) -> npt.NDArray[np.int64]:
        """Find rows by id; those that are not in the cache are left out."""
        found = pc.index_in(ids, value_set=self.ids).drop_null()
        positions: npt.NDArray[np.int64] = found.to_numpy().astype(np.int64)
        return positions

    def known(self, rows: Rows) -> Known:
        """Gather what is known of rows before anything is run."""
        columns = {} if self._columns is None else self._columns.read(rows.ids)
        return Known(
            rows.probs[:, : self._width], rows.models, keys=tie_keys(rows.ids, self._seed), columns=columns
        )


class _Chunks:
    """What is known of all rows, chunk by chunk; can be read again."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __iter__(self) -> Iterator[Known]:
        return map(self._pool.known, self._pool._cache.scan())
