"""How the outputs of a cache lie in its columns."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sparing.cache.encodings import DEFAULT, Encoded, Encoding, parse_encoding
from sparing.errors import InputError
from sparing.outputs import Classes, OutputKind, Outputs

EXACT = "exact"
"""The name of what is stored in the kind's own columns, as it is."""


@dataclass(frozen=True)
class Layout:
    """A kind of output and how it is stored.

    Attributes:
        kind: what the outputs are.
        encoding: how distributions are stored; None for other kinds, which lie in columns of their own.
    """

    kind: OutputKind
    encoding: Encoding | None

    @classmethod
    def of(cls, kind: OutputKind, name: str | None = None) -> "Layout":
        """Return the layout with an encoding.

        Args:
            kind: what the outputs are.
            name: an encoding's name; the default of the kind when absent.

        Raises:
            InputError: no such encoding for this kind.
        """
        if isinstance(kind, Classes):
            return cls(kind, parse_encoding(name or DEFAULT, kind.n_classes))
        if name not in (None, EXACT):
            raise InputError(f"outputs of kind {kind.name!r} are stored as they are, not as {name!r}")
        return cls(kind, None)

    @property
    def name(self) -> str:
        """The name of the encoding."""
        return EXACT if self.encoding is None else self.encoding.name

    @property
    def version(self) -> int:
        """The version of what is stored."""
        return self.kind.version if self.encoding is None else self.encoding.version

    @property
    def fields(self) -> list[pa.Field]:
        """The columns."""
        if self.encoding is not None:
            return [pa.field("probs", self.encoding.arrow_type, nullable=False)]
        columns = self.kind.to_columns(self.kind.join([]))
        return [pa.field(name, column.type, nullable=False) for name, column in columns.items()]

    @property
    def nominal_bytes(self) -> float | None:
        """Bytes of a row's outputs by definition of the encoding; None where there is none."""
        return None if self.encoding is None else self.encoding.nominal_bytes

    def to_columns(self, outputs: Outputs) -> list[pa.Array]:
        """Return outputs as columns of `fields`."""
        if self.encoding is None:
            return list(self.kind.to_columns(outputs).values())
        return [self.encoding.to_column(self.encoding.encode(outputs))]

    def from_columns(self, batch: pa.RecordBatch, compiled: bool = False) -> Outputs | Encoded:
        """Undo `to_columns`; for `compiled` see `Encoded`."""
        if self.encoding is None:
            return self.kind.from_columns(pa.Table.from_batches([batch]))
        return self.encoding.from_column(batch.column("probs"), compiled)

    def as_stored(self, outputs: Outputs) -> Outputs:
        """Return outputs as they read once they have been stored."""
        return outputs if self.encoding is None else self.encoding.encode(outputs).decode()

    def values(self, rows: int) -> int:
        """Return how many numbers so many rows hold; what other kinds hold is never scored by loops."""
        return 0 if self.encoding is None else rows * self.encoding.n_classes

    def element(self) -> dict[str, Any]:
        """Return what a file records of the encoding."""
        return {"name": self.name, "version": self.version}
