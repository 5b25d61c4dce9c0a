"""One version of a cache, for reading."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.cache import checking, transactions
from sparing.cache.layout import Layout
from sparing.cache.metadata import Metadata
from sparing.cache.rows import Rows, from_batch, from_table
from sparing.errors import CacheError
from sparing.outputs.chunks import rows_per_chunk, width_of

CHUNK_ROWS = 32_768
# Lance reads ahead by whole files and hundreds of batches; this keeps memory from growing with the cache.
READAHEAD: dict[str, Any] = {"batch_readahead": 2, "fragment_readahead": 1, "io_buffer_size": 16 << 20}

_LARGE = 200_000_000
"""Probabilities of a table whose scoring takes numpy about as long as loading compiled loops."""


@dataclass(frozen=True)
class View:
    """A version of a cache.

    Attributes:
        path: the folder of the cache.
        dataset: the Lance dataset at this version.
        metadata: what the cache knew about itself then.
    """

    path: Path
    dataset: Any
    metadata: Metadata

    @classmethod
    def open(cls, path: Path, version: int | None = None) -> "View":
        """Open the newest version, or an older one.

        Raises:
            CacheError: no cache there, no such version, or written by a newer release.
        """
        if not path.exists():
            raise CacheError(f"there is no cache at {path}: make one with `sparing cache import` or `fill`")
        dataset = checking.open_version(path, version)
        return cls(path, dataset, transactions.read_metadata(dataset, path))

    def verify(self) -> None:
        """Compare the contents of the files with what was written, once per process.

        Raises:
            CacheError: a file is damaged.
        """
        checking.verify(self.path, self.dataset)

    def committed(
        self,
        transaction: Any,
        record: dict[str, Any] | None,
        known: set[Path],
        metadata: Metadata | None = None,
    ) -> "View":
        """Make a transaction and its record visible in one version; see `transactions.commit`.

        Args:
            transaction: what changes.
            record: what the history says of it; None for what changes no row.
            known: the files that were there before the transaction wrote its own.
            metadata: the metadata to commit; what it is now by default.

        Returns:
            The new version.
        """
        dataset, metadata = transactions.commit(
            self.dataset,
            self.path,
            transaction,
            metadata=self.metadata if metadata is None else metadata,
            record=record,
            known=known,
        )
        return View(self.path, dataset, metadata)

    @property
    def version(self) -> int:
        """The number of the version."""
        return int(self.dataset.version)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.dataset.count_rows())

    @property
    def id_type(self) -> pa.DataType:
        """The type of the ids: string or int64."""
        return self.dataset.schema.field("id").type

    @property
    def keeps_imputed(self) -> bool:
        """Whether rows may hold predicted answers."""
        return "imputed" in self.dataset.schema.names

    @property
    def chunk_rows(self) -> int:
        """How many rows are read at a time."""
        return rows_per_chunk(width_of(self.metadata.kind), CHUNK_ROWS)

    @property
    def layout(self) -> Layout:
        """How outputs are stored."""
        return self.metadata.layout

    def scan(self, chunk_rows: int | None = None) -> Iterator[Rows]:
        """Read all rows, chunk by chunk, in bounded memory."""
        self.verify()
        layout, large, columns = self.layout, self._large, self.dataset.schema.names
        for batch in self.dataset.to_batches(
            batch_size=chunk_rows or self.chunk_rows, columns=columns, **READAHEAD
        ):
            yield from_batch(batch, layout, large)

    def ids(self) -> pa.Array:
        """Read the ids of all rows, in the order of `scan` and `take`."""
        self.verify()
        return self.dataset.to_table(columns=["id"])["id"].combine_chunks()

    def ids_at(self, positions: npt.NDArray[np.int64]) -> pa.Array:
        """Read the ids at ascending positions."""
        return self._at(positions, ["id"])["id"].combine_chunks()

    def take(self, positions: npt.NDArray[np.int64]) -> Rows:
        """Read the rows at positions, sorted by id.

        Args:
            positions: places in `ids`, in any order, none twice.
        """
        # Lance reads ascending positions fastest.
        table = self._at(np.sort(positions), self.dataset.schema.names)
        return from_table(table.sort_by("id").combine_chunks(), self.layout, self._large)

    def _at(self, positions: npt.NDArray[np.int64], columns: list[str]) -> pa.Table:
        addresses = self._addresses
        if addresses is None:
            return self.dataset.take(positions, columns=columns)
        return self.dataset._take_rows(addresses[positions].tolist(), columns=columns)

    @cached_property
    def _addresses(self) -> npt.NDArray[np.uint64] | None:
        """Where each row lies, shape (m,); None where the position says so.

        Once rows were deleted, or rewritten elsewhere, Lance counts through what is left for every position
        that it is asked for, which takes time with the square of the rows. Addresses are 8 bytes a row.
        """
        deleted = any(fragment.num_deletions for fragment in self.dataset.get_fragments())
        if not deleted or not hasattr(self.dataset, "_take_rows"):
            return None
        batches = self.dataset.scanner(columns=[], with_row_address=True, scan_in_order=True).to_batches()
        found = [batch.column("_rowaddr").to_numpy() for batch in batches]
        return np.concatenate([np.zeros(0, dtype=np.uint64), *found])

    def positions(self, wanted: pa.Array) -> npt.NDArray[np.int64]:
        """Find the places of ids, ascending; unknown ones are left out."""
        found, start = [np.zeros(0, dtype=np.int64)], 0
        for batch in self.dataset.to_batches(columns=["id"], batch_size=CHUNK_ROWS):
            hits = pc.is_in(batch.column(0), value_set=wanted).to_numpy(zero_copy_only=False)
            found.append(np.flatnonzero(hits) + start)
            start += batch.num_rows
        return np.concatenate(found)

    def versions(self) -> list[int]:
        """List the versions that can still be opened, oldest first."""
        return [int(entry["version"]) for entry in self.dataset.versions()]

    def row_bytes(self) -> dict[str, float | None]:
        """Measure what a row takes; see `Cache.row_bytes`."""
        m = max(self.rows, 1)
        on_disk = {field.id: field.bytes_on_disk for field in self.dataset.stats.data_stats().fields}
        names = {field.name for field in self.layout.fields}
        outputs = [field for field in self.dataset.lance_schema.fields() if field.name() in names]
        return {
            "nominal": self.layout.nominal_bytes,
            "probs": sum(on_disk[part.id()] for field in outputs for part in _parts(field)) / m,
            "row": sum(on_disk.values()) / m,
        }

    @property
    def _large(self) -> bool:
        return self.layout.values(self.rows) >= _LARGE


def _parts(field: Any) -> list[Any]:
    return [field, *(part for child in field.children() for part in _parts(child))]
