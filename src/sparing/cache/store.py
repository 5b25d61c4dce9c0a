"""The prediction cache: a Lance dataset whose every change is one atomic version."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import lance.optimize
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lance.dataset import Transaction

from sparing.cache import transactions
from sparing.cache.encodings import DEFAULT, Encoding, parse_encoding
from sparing.cache.known import forget_ids
from sparing.cache.metadata import PROPERTY, Metadata, ModelInfo
from sparing.cache.rows import (
    COLUMNS,
    Rows,
    from_batch,
    from_table,
    never_refreshed,
    schema_of,
    to_batch,
)
from sparing.errors import CacheError, CacheLockedError, InputError
from sparing.storage import files
from sparing.storage.locks import write_lock
from sparing.storage.readers import as_kind, read_json

CHUNK_ROWS = 32_768
# Lance reads ahead by whole files and hundreds of batches; this keeps memory from growing with the cache.
_READAHEAD = {"batch_readahead": 2, "fragment_readahead": 1, "io_buffer_size": 16 << 20}

_LARGE = 200_000_000
"""Probabilities of a table whose scoring takes numpy about as long as loading compiled loops."""


class Cache:
    """A prediction cache on disk.

    Open one with `Cache.open`, make one with `Cache.create`. An open cache stays at the version that it was
    opened at until it commits something itself; readers never see half a round.
    """

    def __init__(self, path: Path, dataset: Any, metadata: Metadata) -> None:
        self.path = path
        self.metadata = metadata
        self._dataset = dataset

    @classmethod
    def open(cls, path: str | Path, version: int | None = None) -> "Cache":
        """Open a cache at its newest version, or at an older one.

        Args:
            path: the folder of the cache.
            version: a version from `history`; the newest when absent.

        Raises:
            CacheError: no cache there, no such version, or written by a newer release.
        """
        path = Path(path)
        if not path.exists():
            raise CacheError(f"there is no cache at {path}: make one with `sparing cache import` or `fill`")
        try:
            dataset = lance.dataset(str(path), version=version)
        except (ValueError, OSError) as error:
            if version is not None and (path / "_versions").is_dir():
                raise CacheError(f"{path} has no version {version}: see `sparing cache history`") from error
            raise CacheError(f"{path} is not a cache: `sparing cache import` or `fill` makes one") from error
        return cls(path, dataset, transactions.read_metadata(dataset, path))

    @classmethod
    def create(
        cls,
        path: str | Path,
        chunks: Iterable[tuple[pa.Array, npt.NDArray[np.float32], npt.NDArray[np.int64] | None]],
        model: ModelInfo,
        *,
        encoding: str = DEFAULT,
        classes: Sequence[str] | None = None,
        record: dict[str, Any] | None = None,
    ) -> "Cache":
        """Make a cache from a model's outputs: round 0.

        Args:
            path: a folder that does not exist yet.
            chunks: (ids, distributions (m, C), labels (m,) or None), at least one row in all; -1 marks a
                missing label. Ids must be unique over all chunks.
            model: the model that made the outputs.
            encoding: how distributions are stored; see `sparing.cache.encodings`.
            classes: the C class names.
            record: what else the history should say of this first fill.

        Raises:
            CacheError: something is at the path already, or the disk would not take it.
            InputError: no rows, class names that do not match, or an unknown encoding.
        """
        path = Path(path)
        if path.exists():
            raise CacheError(f"{path} exists already: choose another path, or delete it first")
        iterator = iter(chunks)
        first = next(iterator, None)
        if first is None or len(first[0]) == 0:
            raise InputError("there are no rows to put into the cache")
        n_classes = first[1].shape[1]
        if classes is not None and len(classes) != n_classes:
            raise InputError(f"{len(classes)} class names for distributions over {n_classes} classes")
        form = parse_encoding(encoding, n_classes)
        metadata = Metadata(n_classes, encoding, None if classes is None else tuple(classes))
        metadata = metadata.with_model(model)
        schema = schema_of(first[0].type, form)

        rows = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            for ids, probs, labels in _chain(first, iterator):
                rows += len(ids)
                yield to_batch(schema, never_refreshed(ids, probs, labels, 0, 0), form)

        with files.creating(path, CacheError) as draft:
            transaction = transactions.new_fragments(batches(), schema, str(draft), "create")
            entry = {"op": "import", "round": 0, "version": 1, "time": transactions.now(), "rows": rows}
            metadata = metadata.with_record({**entry, "model": model.name, **(record or {})})
            transaction.transaction_properties = {PROPERTY: metadata.to_json()}
            lance.LanceDataset.commit(str(draft), transaction)
        return cls.open(path)

    def __len__(self) -> int:
        return int(self._dataset.count_rows())

    @property
    def version(self) -> int:
        """The version of the rows in view."""
        return int(self._dataset.version)

    @property
    def id_type(self) -> pa.DataType:
        """The type of the ids: string or int64."""
        return self._dataset.schema.field("id").type

    @property
    def encoding(self) -> Encoding:
        """How distributions are stored."""
        return parse_encoding(self.metadata.encoding, self.metadata.n_classes)

    @property
    def _large(self) -> bool:
        return len(self) * self.metadata.n_classes >= _LARGE

    @property
    def work_dir(self) -> Path:
        """Where unfinished work is kept: inside the cache, outside its versions."""
        return self.path / "_sparing"

    @property
    def staged_round(self) -> Path:
        """Where an unfinished round is kept; while `request.json` lies there, the rows must not change."""
        return self.work_dir / "round"

    def unfinished_round(self) -> dict[str, Any] | None:
        """Return what the unfinished round was asked to do; None when none is staged, or it is committed.

        Raises:
            CacheError: what is staged is damaged.
        """
        path = self.staged_round / "request.json"
        if not path.exists():
            return None
        try:
            request = read_json(path, dict[str, Any], error=CacheError)
            digest = as_kind(request.get("digest"), str, f"{path}, digest", error=CacheError)
        except CacheError as error:
            raise CacheError(f"{error}; delete {self.staged_round} to start over") from error
        committed = any(entry.get("request") == digest for entry in self.metadata.history)
        return None if committed else request

    def lock(self) -> AbstractContextManager[None]:
        """Hold the right to write; the cache must be opened after taking it."""
        return write_lock(self.work_dir / "lock", "this cache", CacheLockedError)

    def scan(self, chunk_rows: int = CHUNK_ROWS) -> Iterator[Rows]:
        """Read all rows, chunk by chunk, in bounded memory."""
        form, large = self.encoding, self._large
        for batch in self._dataset.to_batches(batch_size=chunk_rows, columns=COLUMNS, **_READAHEAD):
            yield from_batch(batch, form, large)

    def get(self, ids: Sequence[Any] | pa.Array) -> Rows:
        """Look rows up by id.

        Args:
            ids: ids of the cache's type; unknown and repeated ones are left out.

        Returns:
            The rows found, sorted by id.

        Raises:
            InputError: ids of another type.
        """
        wanted = self.as_ids(ids)
        return self.take(self._positions(wanted))

    def as_ids(self, ids: Sequence[Any] | pa.Array) -> pa.Array:
        """Check that ids are of the cache's type.

        Raises:
            InputError: they are not.
        """
        array = ids if isinstance(ids, pa.Array) else pa.array(list(ids))
        if len(array) == 0:
            return pa.array([], type=self.id_type)
        kinds = [pa.types.is_integer(t) for t in (array.type, self.id_type)]
        if kinds[0] != kinds[1] or not (kinds[0] or _is_string(array.type)):
            raise InputError(f"the ids are {array.type}, but this cache has ids of type {self.id_type}")
        return array.cast(self.id_type)

    def refresh_rows(
        self,
        batches: Iterable[Rows],
        metadata: Callable[[], Metadata],
        record: Callable[[int], dict[str, Any]],
    ) -> None:
        """Replace rows by id and make the next round visible, in one version.

        Args:
            batches: the new rows; every id is in the cache, once.
            metadata: called once the rows are written; the metadata to commit. Its round is the new one.
            record: called once the rows are written, with the bytes that took; gives what the history says of
                the round. Version and time are filled in.

        Raises:
            CacheError: the disk would not take it; nothing has changed then.
        """
        schema, form = self._dataset.schema, self.encoding

        def write(reader: pa.RecordBatchReader) -> Transaction:
            update = self._dataset.merge_insert("id").when_matched_update_all()
            transaction: Transaction = update.execute_uncommitted(reader)[0]
            return transaction

        with transactions.writing(self.path):
            known = files.files_below(self.path)
            transaction = transactions.streamed(
                (to_batch(schema, rows, form) for rows in batches), schema, write
            )
            written = sum(path.stat().st_size for path in files.files_below(self.path) - known)
            self._commit(transaction, metadata(), record(written), known)

    def append(
        self,
        chunks: Iterable[tuple[pa.Array, npt.NDArray[np.float32], npt.NDArray[np.int64] | None]],
        model: ModelInfo,
    ) -> int:
        """Add new samples with a model's outputs for them.

        Args:
            chunks: as for `create`; no id may be in the cache already.
            model: the model that made the outputs.

        Returns:
            The number of rows added.

        Raises:
            InputError: ids that are in the cache already or of another type, or other class counts.
            CacheError: the disk would not take it, or the model's name is taken.
        """
        self._refuse_staged_round()
        metadata = self.metadata.with_model(model)
        index = [known.name for known in metadata.models].index(model.name)
        schema, form = self._dataset.schema, self.encoding
        added = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal added
            for ids, probs, labels in chunks:
                ids = self.as_ids(ids)
                self._check_classes(probs)
                present = self._positions(ids)
                if len(present):
                    taken = self._dataset.take(present[:1], columns=["id"])["id"][0].as_py()
                    raise InputError(
                        f"{len(present)} of the ids are in the cache already, for example {taken!r}: "
                        "refresh them instead, or delete them first"
                    )
                added += len(ids)
                rows = never_refreshed(ids, probs, labels, index, self.metadata.round)
                yield to_batch(schema, rows, form)

        with transactions.writing(self.path):
            known = files.files_below(self.path)
            transaction = transactions.new_fragments(batches(), schema, self._dataset, "append")
            if added == 0:
                raise InputError("there are no rows to append")
            self._commit(transaction, metadata, {"op": "append", "rows": added, "model": model.name}, known)
        return added

    def delete(self, ids: Sequence[Any] | pa.Array) -> int:
        """Remove samples by id.

        Returns:
            The number of rows removed.

        Raises:
            InputError: ids that are not in the cache, or of another type; nothing is removed then.
        """
        self._refuse_staged_round()
        wanted = self.as_ids(ids).unique()
        found = self._dataset.take(np.sort(self._positions(wanted)), columns=["id"])["id"]
        if len(found) < len(wanted):
            missing = wanted.filter(pc.invert(pc.is_in(wanted, value_set=found.combine_chunks())))
            raise InputError(f"{len(missing)} ids are not in the cache, for example {missing[0].as_py()!r}")
        if not len(wanted):
            return 0
        with transactions.writing(self.path):
            forget_ids(self.work_dir, wanted)
            known = files.files_below(self.path)
            removal = self._dataset.merge_insert("id").when_matched_delete()
            transaction = removal.execute_uncommitted(pa.table({"id": wanted}))[0]
            self._commit(transaction, self.metadata, {"op": "delete", "rows": len(wanted)}, known)
        return len(wanted)

    def ids(self) -> pa.Array:
        """Read the ids of all rows, in the order of `scan` and `take`."""
        return self._dataset.to_table(columns=["id"])["id"].combine_chunks()

    def take(self, positions: npt.NDArray[np.int64]) -> Rows:
        """Read the rows at positions, sorted by id.

        Args:
            positions: places in `ids`, in any order, none twice.
        """
        # Lance reads ascending positions fastest.
        table = self._dataset.take(np.sort(positions), columns=COLUMNS)
        return from_table(table.sort_by("id").combine_chunks(), self.encoding, self._large)

    def versions(self) -> list[int]:
        """List the versions that can still be opened, oldest first."""
        return [int(entry["version"]) for entry in self._dataset.versions()]

    def rollback(self, round_: int) -> None:
        """Go back to how the cache stood at the end of an earlier round, as a new version.

        Args:
            round_: the round, at least 0 and before the current one or equal to it.

        Raises:
            CacheError: no version of that round is left (compaction keeps only some).
        """
        self._refuse_staged_round()
        kept = set(self.versions())
        candidates = [
            entry["version"]
            for entry in self.metadata.history
            if entry["round"] == round_ and entry["version"] in kept
        ]
        if not candidates:
            left = sorted({e["round"] for e in self.metadata.history if e["version"] in kept})
            raise CacheError(f"round {round_} cannot be restored: versions are left of rounds {left}")
        old = Cache.open(self.path, version=max(candidates))
        known = files.files_below(self.path)
        record = {
            "op": "rollback",
            "from_round": self.metadata.round,
            "from_rows": len(self),
            "rows": len(old),
        }
        # Models and routers only ever grow, and history is what happened: the round alone goes back.
        metadata = replace(self.metadata, round=old.metadata.round, encoding=old.metadata.encoding)
        transaction = Transaction(self.version, lance.LanceOperation.Restore(old.version))
        with transactions.writing(self.path):
            self._commit(transaction, metadata, record, known)

    def convert(self, encoding: str) -> None:
        """Store all distributions in another encoding, as a new version of the same round.

        What an encoding has dropped does not come back; rolling back to an earlier round does.

        Args:
            encoding: see `sparing.cache.encodings`.

        Raises:
            InputError: an unknown encoding, or the one that the cache has already.
            CacheError: a round is staged, or the disk would not take it; nothing has changed then.
        """
        self._refuse_staged_round()
        form = parse_encoding(encoding, self.metadata.n_classes)
        if encoding == self.metadata.encoding:
            raise InputError(f"{self.path} is encoded as {encoding} already")
        schema = schema_of(self.id_type, form)
        record = {"op": "convert", "from": self.metadata.encoding, "to": encoding}
        with transactions.writing(self.path):
            known = files.files_below(self.path)
            batches = (to_batch(schema, rows, form) for rows in self.scan())
            transaction = transactions.new_fragments(batches, schema, self._dataset, "overwrite")
            self._commit(transaction, replace(self.metadata, encoding=encoding), record, known)

    def compact(self, keep_rounds: int = 2) -> dict[str, int]:
        """Rewrite the rows into few files and drop the versions that rollback no longer needs.

        Args:
            keep_rounds: how many rounds before the current one stay restorable; not negative.

        Returns:
            bytes before and after.

        Raises:
            InputError: a negative number of rounds.
            CacheError: the disk would not take it.
        """
        if keep_rounds < 0:
            raise InputError(f"cannot keep {keep_rounds} rounds: give 0 or more")
        self._refuse_staged_round()
        before = self.disk_bytes()
        with transactions.writing(self.path):
            known = files.files_below(self.path)
            lance.optimize.Compaction.execute(self._dataset, {})
            self._dataset = lance.dataset(str(self.path))
            transaction = Transaction(
                self.version,
                lance.LanceOperation.UpdateConfig(
                    config_updates=lance.LanceOperation.UpdateMap({"sparing.compacted": transactions.now()})
                ),
            )
            self._commit(transaction, self.metadata, {"op": "compact", "kept_rounds": keep_rounds}, known)
            newest: dict[int, int] = {}
            for entry in self.metadata.history:
                newest[entry["round"]] = max(newest.get(entry["round"], 0), entry["version"])
            current = self.metadata.round
            needed = {v for r, v in newest.items() if current - keep_rounds <= r <= current}
            # The lock says that no other writer is at work, so unreferenced files are leftovers.
            self._dataset.cleanup_old_versions(
                older_than=timedelta(0),
                delete_unverified=True,
                versions=[v for v in self.versions() if v not in needed and v != self.version],
            )
        return {"bytes_before": before, "bytes_after": self.disk_bytes()}

    def disk_bytes(self) -> int:
        """Add up what the cache takes on disk, all its versions included."""
        total = 0
        for path in files.files_below(self.path):
            with contextlib.suppress(FileNotFoundError):  # a writer's draft, gone since it was listed
                total += path.stat().st_size
        return total

    def row_bytes(self) -> dict[str, float]:
        """Measure what a row takes in the version in view.

        Returns:
            nominal: bytes of its distribution by definition of the encoding; probs: bytes of its distribution
            in the data files; row: bytes of all its columns there. Rows that an update has replaced still
            count until the next compaction.
        """
        m = max(len(self), 1)
        on_disk = {field.id: field.bytes_on_disk for field in self._dataset.stats.data_stats().fields}
        probs = next(field for field in self._dataset.lance_schema.fields() if field.name() == "probs")
        parts = [probs, *probs.children()]
        return {
            "nominal": self.encoding.nominal_bytes,
            "probs": sum(on_disk[part.id()] for part in parts) / m,
            "row": sum(on_disk.values()) / m,
        }

    def as_stored(self, probs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Give distributions as they read once the cache has stored them."""
        return self.encoding.encode(probs).decode()

    def _positions(self, wanted: pa.Array) -> npt.NDArray[np.int64]:
        found, start = [np.zeros(0, dtype=np.int64)], 0
        for batch in self._dataset.to_batches(columns=["id"], batch_size=CHUNK_ROWS):
            hits = pc.is_in(batch.column(0), value_set=wanted).to_numpy(zero_copy_only=False)
            found.append(np.flatnonzero(hits) + start)
            start += batch.num_rows
        return np.concatenate(found)

    def _refuse_staged_round(self) -> None:
        if self.unfinished_round() is not None:
            raise CacheError(
                f"an unfinished round is staged in {self.path}: go on with it, or drop it with "
                "`sparing cache discard`, before the rows change under it"
            )

    def _check_classes(self, probs: npt.NDArray[np.float32]) -> None:
        if probs.shape[1] != self.metadata.n_classes:
            raise InputError(
                f"distributions over {probs.shape[1]} classes, but this cache has {self.metadata.n_classes}"
            )

    def _commit(
        self, transaction: Transaction, metadata: Metadata, record: dict[str, Any], known: set[Path]
    ) -> None:
        self._dataset, self.metadata = transactions.commit(
            self._dataset, self.path, transaction, metadata, record, known
        )


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
