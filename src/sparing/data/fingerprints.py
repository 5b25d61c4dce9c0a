"""What tells whether a sample has changed: a digest of its value, or of a column that changes with it."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.data.digests import digest_values
from sparing.data.samples import Samples
from sparing.errors import InputError

VALUE = "value"
"""Names the fingerprint that is taken of the value itself; others name a column."""

_READ_ROWS = 256

UInt64 = npt.NDArray[np.uint64]


class Fingerprints:
    """The fingerprints of samples.

    Args:
        samples: the samples.
        by: "value", which reads every sample that is asked for, or a column of their table, such as an ETag,
            a hash or a time of change.

    Raises:
        InputError: the samples do not lie in a table, or it lacks the column.
    """

    def __init__(self, samples: Samples, by: str) -> None:
        self._samples = samples
        self._of_column: UInt64 | None = None
        if by != VALUE:
            column = samples.columns([by]).column(by)
            if column.null_count:
                raise InputError(f"{samples.what}: the fingerprint column {by!r} has missing values")
            self._of_column = digest_values(column.to_pylist())

    def of(self, ids: pa.Array) -> UInt64:
        """Return the fingerprint of each sample by its id, shape (m,); 0 where there is no such sample."""
        positions = self._samples.index_of(ids)
        found = np.zeros(len(ids), dtype=np.uint64)
        there = np.flatnonzero(positions >= 0)
        if self._of_column is not None:
            found[there] = self._of_column[positions[there]]
            return found
        for start in range(0, len(there), _READ_ROWS):
            rows = there[start : start + _READ_ROWS]
            found[rows] = digest_values(self._samples.fetch(positions[rows]))
        return found
