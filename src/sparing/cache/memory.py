"""What a round needs of whatever holds the rows, and a store that holds them in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.cache.metadata import Metadata, ModelInfo
from sparing.cache.rows import Rows, never_refreshed
from sparing.outputs import OutputKind, Outputs


class Store(Protocol):
    """Rows with their metadata, at one version; a `Cache` is one."""

    @property
    def metadata(self) -> Metadata:
        """What the store knows about itself."""

    @property
    def version(self) -> int:
        """The version of the rows in view."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def scan(self) -> Iterator[Rows]:
        """Read all rows, chunk by chunk, always in the same order."""

    def take(self, positions: npt.NDArray[np.int64]) -> Rows:
        """Read the rows at positions in the order of `scan`, none twice; in an order of their own."""

    def get(self, ids: Sequence[Any] | pa.Array) -> Rows:
        """Read the rows with these ids, in an order of their own; unknown ids are left out."""

    def as_stored(self, outputs: Outputs) -> Outputs:
        """Return outputs as they read once they have been stored."""

    def refresh_rows(
        self,
        batches: Iterable[Rows],
        metadata: Callable[[], Metadata],
        record: Callable[[int], dict[str, Any]],
    ) -> None:
        """Replace rows by id and make the next round visible; see `Cache.refresh_rows`."""


class MemoryStore:
    """Rows in memory, as exact as they come: what a simulated round works on."""

    def __init__(
        self,
        ids: pa.Array,
        kind: OutputKind,
        outputs: Outputs,
        labels: npt.NDArray[np.int64] | None,
        model: ModelInfo,
    ) -> None:
        """Hold what a model said of m samples.

        Args:
            ids: m unique ids.
            kind: the kind of its outputs.
            outputs: m outputs.
            labels: shape (m,), -1 where there is none.
            model: the model.
        """
        self.metadata = Metadata(kind, "float32").with_model(model)
        self.rows = never_refreshed(ids, outputs, labels, 0, 0)
        self.version = 1

    def __len__(self) -> int:
        return len(self.rows)

    def scan(self) -> Iterator[Rows]:
        """Yield all rows at once."""
        yield self.rows

    def take(self, positions: npt.NDArray[np.int64]) -> Rows:
        """Return the rows at positions, in their order."""
        rows = self.rows
        return Rows(
            ids=rows.ids.take(pa.array(positions)),
            stored=rows.outputs[positions],
            labels=rows.labels[positions],
            models=rows.models[positions],
            rounds=rows.rounds[positions],
            scores=rows.scores[positions],
        )

    def get(self, ids: Sequence[Any] | pa.Array) -> Rows:
        """Return the rows with these ids, in their order; unknown ids are left out."""
        return self.take(self._positions(ids))

    def as_stored(self, outputs: Outputs) -> Outputs:
        """Return outputs as they are."""
        return outputs

    def refresh_rows(
        self,
        batches: Iterable[Rows],
        metadata: Callable[[], Metadata],
        record: Callable[[int], dict[str, Any]],
    ) -> None:
        """Replace rows by id once all batches are made; see `Cache.refresh_rows`."""
        old = self.rows
        outputs, labels = old.outputs.copy(), old.labels.copy()
        models, rounds, scores = old.models.copy(), old.rounds.copy(), old.scores.copy()
        for rows in batches:
            at = self._positions(rows.ids)
            outputs[at], labels[at], models[at] = rows.outputs, rows.labels, rows.models
            rounds[at], scores[at] = rows.rounds, rows.scores
        after = metadata()
        entry = {**record(0), "round": after.round, "version": self.version + 1}
        self.rows = replace(old, stored=outputs, labels=labels, models=models, rounds=rounds, scores=scores)
        self.metadata, self.version = after.with_record(entry), self.version + 1

    def _positions(self, ids: Sequence[Any] | pa.Array) -> npt.NDArray[np.int64]:
        wanted = ids if isinstance(ids, pa.Array) else pa.array(list(ids), type=self.rows.ids.type)
        found = pc.index_in(wanted, value_set=self.rows.ids).drop_null()
        positions: npt.NDArray[np.int64] = found.to_numpy(zero_copy_only=False).astype(np.int64)
        return positions
