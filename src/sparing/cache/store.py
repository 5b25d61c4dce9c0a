"""The prediction cache: a Lance dataset whose every change is one atomic version."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lance.dataset import Transaction

from sparing.cache import checking, compaction, transactions, upkeep
from sparing.cache.known import forget_ids
from sparing.cache.layout import Layout
from sparing.cache.metadata import CHANGED, PROPERTY, Metadata, ModelInfo
from sparing.cache.rows import Rows, never_refreshed, schema_of, to_batch
from sparing.cache.view import View
from sparing.errors import CacheError, CacheLockedError, InputError
from sparing.outputs import Classes, OutputKind, Outputs
from sparing.outputs.classes import check_names
from sparing.storage import files
from sparing.storage.locks import write_lock
from sparing.storage.readers import as_kind, read_json

Chunk = (
    tuple[pa.Array, Outputs, npt.NDArray[np.int64] | None]
    | tuple[pa.Array, Outputs, npt.NDArray[np.int64] | None, npt.NDArray[np.uint64]]
)
"""Ids, checked outputs of one kind, labels or None, and where the cache keeps them fingerprints."""


class Cache:
    """A prediction cache on disk.

    Open one with `Cache.open`, make one with `Cache.create`. An open cache stays at the version that it was
    opened at until it commits something itself; readers never see half a round.
    """

    def __init__(self, view: View) -> None:
        self._view = view

    @classmethod
    def open(cls, path: str | Path, version: int | None = None) -> "Cache":
        """Open a cache at its newest version, or at an older one.

        Args:
            path: the folder of the cache.
            version: a version from `history`; the newest when absent.

        Raises:
            CacheError: no cache there, no such version, or written by a newer release.
        """
        return cls(View.open(Path(path), version))

    @classmethod
    def create(
        cls,
        path: str | Path,
        chunks: Iterable[Chunk],
        model: ModelInfo,
        *,
        kind: OutputKind | None = None,
        encoding: str | None = None,
        classes: Sequence[str] | None = None,
        fingerprint: str | None = None,
        record: dict[str, Any] | None = None,
    ) -> "Cache":
        """Make a cache from a model's outputs: round 0.

        Args:
            path: a folder that does not exist yet.
            chunks: (ids, m outputs, labels (m,) or None), at least one row in all; -1 marks a missing label.
                Ids must be unique over all chunks. With `fingerprint`, a fourth part: fingerprints (m,).
            model: the model that made the outputs.
            kind: what the outputs are; distributions (m, C) by default.
            encoding: how distributions are stored; see `sparing.cache.encodings`.
            classes: of distributions, the C class names.
            fingerprint: what the fingerprints are taken of; see `Metadata`.
            record: what else the history should say of this first fill.

        Raises:
            CacheError: something is at the path already, or writing failed.
            InputError: no rows, class names that do not match, or an unknown encoding.
        """
        path = Path(path)
        if path.exists():
            raise CacheError(f"{path} exists already: choose another path, or delete it first")
        iterator = iter(chunks)
        first = next(iterator, None)
        if first is None or len(first[0]) == 0:
            raise InputError("there are no rows to put into the cache")
        if kind is None:
            names = None if classes is None else tuple(classes)
            kind = Classes(first[1].shape[1], names)
        layout = Layout.of(kind, encoding)
        metadata = Metadata(kind, layout.name, fingerprint=fingerprint).with_model(model)
        schema = schema_of(first[0].type, layout, fingerprint is not None)

        rows = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            for ids, outputs, labels, *inputs in _chain(first, iterator):
                rows += len(ids)
                made = never_refreshed(ids, outputs, labels, 0, 0, inputs=inputs[0] if inputs else None)
                yield to_batch(schema, made, layout)

        with files.creating(path, CacheError) as draft:
            transaction = transactions.new_fragments(batches(), schema, files.local(draft), "create")
            entry = {"op": "import", "round": 0, "version": 1, "time": transactions.now(), "rows": rows}
            metadata = metadata.with_record({**entry, "model": model.name, **(record or {})})
            transaction.transaction_properties = {PROPERTY: metadata.to_json()}
            lance.LanceDataset.commit(files.local(draft), transaction)
            checking.note_files(draft, files.files_below(draft))
        return cls.open(path)

    @property
    def path(self) -> Path:
        """The folder of the cache."""
        return self._view.path

    @property
    def metadata(self) -> Metadata:
        """What the cache knows about itself."""
        return self._view.metadata

    def __len__(self) -> int:
        return self._view.rows

    @property
    def version(self) -> int:
        """The version of the rows in view."""
        return self._view.version

    @property
    def id_type(self) -> pa.DataType:
        """The type of the ids: string or int64."""
        return self._view.id_type

    @property
    def kind(self) -> OutputKind:
        """What the outputs are."""
        return self.metadata.kind

    @property
    def layout(self) -> Layout:
        """How outputs are stored."""
        return self._view.layout

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

    @property
    def chunk_rows(self) -> int:
        """How many rows are read at a time."""
        return self._view.chunk_rows

    def verify(self) -> None:
        """Compare the contents of the cache's files with what was written, once per process.

        `scan` does so by itself; see `check` for all versions.

        Raises:
            CacheError: a file is damaged.
        """
        self._view.verify()

    def scan(self, chunk_rows: int | None = None) -> Iterator[Rows]:
        """Read all rows, chunk by chunk, in bounded memory."""
        return self._view.scan(chunk_rows)

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
        return self.take(self._view.positions(wanted))

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
            CacheError: writing failed; nothing has changed then.
        """
        schema, layout = self._view.dataset.schema, self.layout

        def write(reader: pa.RecordBatchReader) -> Transaction:
            update = self._view.dataset.merge_insert("id").when_matched_update_all()
            transaction: Transaction = update.execute_uncommitted(reader)[0]
            return transaction

        with transactions.writing(self.path):
            known = files.files_below(self.path)
            transaction = transactions.streamed(
                (to_batch(schema, rows, layout) for rows in batches), schema, write
            )
            written = sum(path.stat().st_size for path in files.files_below(self.path) - known)
            committed = metadata()
            self._view = self._view.committed(transaction, record(written), known, committed)

    def append(
        self,
        chunks: Iterable[Chunk],
        model: ModelInfo,
    ) -> int:
        """Add new samples with a model's outputs for them.

        Args:
            chunks: as for `create`; no id may be in the cache already.
            model: the model that made the outputs.

        Returns:
            The number of rows added.

        Raises:
            InputError: ids that are in the cache already or of another type, or outputs of other dimensions.
            CacheError: writing failed, or the model's name is taken.
        """
        self._refuse_staged_round()
        metadata = self.metadata.with_model(model)
        index = [known.name for known in metadata.models].index(model.name)
        schema, layout = self._view.dataset.schema, self.layout
        added = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal added
            for ids, outputs, labels, *inputs in chunks:
                ids = self.as_ids(ids)
                self._check_outputs(outputs)
                present = self._view.positions(ids)
                if len(present):
                    taken = self._view.ids_at(present[:1])[0].as_py()
                    raise InputError(
                        f"{len(present)} of the ids are in the cache already, for example {taken!r}: "
                        "refresh them instead, or delete them first"
                    )
                added += len(ids)
                rows = never_refreshed(
                    ids, outputs, labels, index, self.metadata.round, inputs=inputs[0] if inputs else None
                )
                yield to_batch(schema, rows, layout)

        with transactions.writing(self.path):
            known = files.files_below(self.path)
            transaction = transactions.new_fragments(batches(), schema, self._view.dataset, "append")
            if added == 0:
                raise InputError("there are no rows to append")
            record = {"op": "append", "rows": added, "model": model.name}
            self._view = self._view.committed(transaction, record, known, metadata)
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
        found = self._view.ids_at(self._view.positions(wanted))
        if len(found) < len(wanted):
            missing = wanted.filter(pc.invert(pc.is_in(wanted, value_set=found)))
            raise InputError(f"{len(missing)} ids are not in the cache, for example {missing[0].as_py()!r}")
        if not len(wanted):
            return 0
        with transactions.writing(self.path):
            known = files.files_below(self.path)
            removal = self._view.dataset.merge_insert("id").when_matched_delete()
            transaction = removal.execute_uncommitted(pa.table({"id": wanted}))[0]
            self._view = self._view.committed(transaction, {"op": "delete", "rows": len(wanted)}, known)
            # Last, so that a deletion that fails loses nothing; what a kill leaves names its samples.
            forget_ids(self.work_dir, self.metadata, wanted)
        return len(wanted)

    def mark_changed(self, ids: pa.Array) -> None:
        """Note that the samples of some rows have changed since, as a new version of the same round.

        The rows keep their outputs, but no model holds them any more, so that any may be run on them.

        Args:
            ids: their ids, each in the cache.

        Raises:
            CacheError: a round is staged, or writing failed; nothing has changed then.
        """
        self._refuse_staged_round()
        metadata = self.metadata.with_model(ModelInfo(CHANGED, CHANGED))
        index = metadata.model_index(CHANGED)
        rows = self.get(ids)
        marked = replace(rows, models=np.full(len(rows), index, np.int64), imputations=None)
        entry = {"op": "changed", "rows": len(rows)}
        self.refresh_rows([marked], lambda: metadata, lambda _: entry)

    def name_classes(self, names: Sequence[str], rename: Mapping[str, str] | None = None) -> None:
        """Name the classes of a cache, and add further ones, as a new version of the same round.

        The rows keep their outputs, with zero mass on what is added; every model is noted to know the classes
        that it knew.

        Args:
            names: the C names so far, as they are to be from now on, then those that are added.
            rename: new names by old ones, of those that change.

        Raises:
            InputError: fewer names than classes, or a name that occurs twice.
            CacheError: not a cache of distributions, a round is staged, or writing failed; nothing has
                changed then.
        """
        self._refuse_staged_round()
        check_names(names, "classes")
        if len(names) < self.metadata.n_classes:
            raise InputError(f"{len(names)} names for {self.metadata.n_classes} classes")
        self._view = upkeep.name_classes(self._view, names, rename or {})

    @property
    def keeps_imputed(self) -> bool:
        """Whether rows may hold predicted answers."""
        return self._view.keeps_imputed

    def keep_imputed(self) -> None:
        """Give the rows of a cache room for predicted answers, as a new version of the same round.

        Raises:
            CacheError: a round is staged, or writing failed; nothing has changed then.
        """
        self._refuse_staged_round()
        self._view = upkeep.keep_imputed(self._view)

    def add_fingerprints(self, fingerprint: str, find: Callable[[pa.Array], npt.NDArray[np.uint64]]) -> None:
        """Take the samples as they are now for those that the outputs were computed from.

        Args:
            fingerprint: what the fingerprints are taken of; see `Metadata`.
            find: from ids to fingerprints, shape (m,), 0 where there is no such sample.

        Raises:
            CacheError: a round is staged, or writing failed; nothing has changed then.
        """
        self._refuse_staged_round()
        self._view = upkeep.add_fingerprints(self._view, fingerprint, find)

    def ids(self) -> pa.Array:
        """Read the ids of all rows, in the order of `scan` and `take`."""
        return self._view.ids()

    def take(self, positions: npt.NDArray[np.int64]) -> Rows:
        """Read the rows at positions, sorted by id.

        Args:
            positions: places in `ids`, in any order, none twice.
        """
        return self._view.take(positions)

    def versions(self) -> list[int]:
        """List the versions that can still be opened, oldest first."""
        return self._view.versions()

    def rollback(self, round_: int) -> None:
        """Go back to how the cache stood at the end of an earlier round, as a new version.

        Args:
            round_: the round, at least 0 and before the current one or equal to it.

        Raises:
            CacheError: no version of that round is left (compaction keeps only some).
        """
        self._refuse_staged_round()
        self._view = upkeep.roll_back(self._view, round_)

    def convert(self, encoding: str) -> None:
        """Store all distributions in another encoding, as a new version of the same round.

        What an encoding has dropped does not come back; rolling back to an earlier round does.

        Args:
            encoding: see `sparing.cache.encodings`.

        Raises:
            InputError: an unknown encoding, or the one that the cache has already.
            CacheError: a round is staged, or writing failed; nothing has changed then.
        """
        self._refuse_staged_round()
        self._view = upkeep.convert(self._view, encoding)

    def compact(self, keep_rounds: int = 2) -> dict[str, int]:
        """Rewrite the rows into few files and drop the versions that rollback no longer needs.

        Args:
            keep_rounds: how many rounds before the current one stay restorable; not negative.

        Returns:
            bytes before and after.

        Raises:
            InputError: a negative number of rounds.
            CacheError: writing failed.
        """
        self._refuse_staged_round()
        before = self.disk_bytes()
        self._view = upkeep.compact(self._view, keep_rounds)
        return {"bytes_before": before, "bytes_after": self.disk_bytes()}

    def compact_if_due(self) -> dict[str, Any] | None:
        """Merge small files, and rewrite files whose rows are mostly deleted, if there are enough of them.

        The rule is `sparing.cache.compaction.due`. No version is dropped: rollback reaches as far as before.
        `refresh` calls this after every round. An error of the disk is returned, not raised, since it changes
        nothing; the next call tries again.

        Returns:
            None when nothing was due; else "files_before" and "files_after", and "rows" that were rewritten;
            or why it "failed".
        """
        try:
            if self.unfinished_round() is not None:
                return None
            self._view, done = compaction.compact_if_due(self._view)
        except (SystemExit, GeneratorExit):
            raise
        except KeyboardInterrupt:
            return {"failed": "interrupted"}
        except BaseException as error:  # noqa: BLE001 -- Lance's panics are no Exceptions
            return {"failed": files.reason(error)}
        return done

    def disk_bytes(self) -> int:
        """Add up what the cache takes on disk, all its versions included."""
        total = 0
        for path in files.files_below(self.path):
            with contextlib.suppress(FileNotFoundError):  # a writer's draft, gone since it was listed
                total += path.stat().st_size
        return total

    def row_bytes(self) -> dict[str, float | None]:
        """Measure what a row takes in the version in view.

        Returns:
            nominal: bytes of its outputs by definition of the encoding, None for kinds without encodings;
            probs: bytes of its outputs in the data files; row: bytes of all its columns there. Rows that an
            update has replaced still count until the next compaction.
        """
        return self._view.row_bytes()

    def as_stored(self, outputs: Outputs) -> Outputs:
        """Return outputs as they read once the cache has stored them."""
        return self.layout.as_stored(outputs)

    def _refuse_staged_round(self) -> None:
        if self.unfinished_round() is not None:
            raise CacheError(
                f"an unfinished round is staged in {self.path}: go on with it, or drop it with "
                "`sparing cache discard`, before the rows change under it"
            )

    def _check_outputs(self, outputs: Outputs) -> None:
        if not self.kind.matches(outputs):
            self.kind.check(outputs, what="outputs")  # says what differs


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
