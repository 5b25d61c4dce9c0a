"""How a cache commits: Lance transactions that carry our record, synced to the disk."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lance
import lance.fragment
import pyarrow as pa
from lance.dataset import Transaction

from sparing.cache import checking
from sparing.cache.metadata import PROPERTY, Metadata
from sparing.cache.record import FOLDER, RecordFiles
from sparing.errors import CacheError
from sparing.storage import files


def commit(
    dataset: Any,
    path: Path,
    transaction: Transaction,
    *,
    metadata: Metadata,
    record: dict[str, Any] | None,
    known: set[Path],
) -> tuple[Any, Metadata]:
    """Make a transaction and its record visible in one version, on the disk before this returns.

    Args:
        dataset: the Lance dataset that the transaction was made from.
        path: its folder.
        transaction: what changes.
        metadata: the metadata to commit.
        record: what the history says of it; round, version and time are filled in. None for what changes no
            row.
        known: the files that were there before the transaction wrote its own.

    Returns:
        The dataset at the new version, and the metadata with the record in its history.
    """
    version, source = dataset.version + 1, RecordFiles(path / FOLDER)
    source.drop_uncommitted(dataset.latest_version)
    metadata = metadata.stored(source, version)
    if record is not None:
        entry = {"op": record["op"], "round": metadata.round, "version": version, "time": now()}
        metadata = metadata.with_record({**entry, **record})
    transaction.transaction_properties = {PROPERTY: metadata.to_json()}
    # Lance does not sync, and a version must not become visible before its data is on the disk.
    files.sync_tree(path, known)
    written = files.files_below(path)
    checking.note_files(path, (written - known) | checking.unnoted(path, dataset.version))
    dataset = lance.LanceDataset.commit(dataset, transaction, max_retries=0)
    files.sync_tree(path, written)
    checking.note_files(path, files.files_below(path) - written)
    return dataset, metadata


def read_metadata(dataset: Any, path: Path) -> Metadata:
    """Read the record that belongs to the version in view.

    Raises:
        CacheError: no version up to this one carries a record.
    """
    # Versions that Sparing did not write itself (a compaction in progress) carry no record: the one before
    # them does, and describes the same rows.
    for version in range(dataset.version, 0, -1):
        try:
            transaction = dataset.read_transaction(version)
        except (ValueError, OSError):
            break
        text = (transaction.transaction_properties or {}).get(PROPERTY) if transaction else None
        if text is not None:
            return Metadata.from_json(text, str(path), RecordFiles(path / FOLDER))
    raise CacheError(f"{path} is a Lance dataset, but not one that Sparing made: it carries no record")


def streamed(
    batches: Iterator[pa.RecordBatch],
    schema: pa.Schema,
    write: Callable[[pa.RecordBatchReader], Transaction],
) -> Transaction:
    """Feed batches to Lance; an error of ours inside the stream comes out as itself, not wrapped by Arrow."""
    raised: list[BaseException] = []

    def guarded() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as error:
            raised.append(error)
            raise

    try:
        return write(pa.RecordBatchReader.from_batches(schema, guarded()))
    except Exception:
        if raised:
            raise raised[0] from None
        raise


def new_fragments(
    batches: Iterator[pa.RecordBatch], schema: pa.Schema, target: Any, mode: str
) -> Transaction:
    """Write batches as new files.

    Args:
        batches: the rows.
        schema: their columns.
        target: a dataset, or the path of one to be.
        mode: "create", "append", or "overwrite" to take the place of all rows.
    """
    return streamed(
        batches,
        schema,
        lambda reader: lance.fragment.write_fragments(reader, target, return_transaction=True, mode=mode),
    )


def writing(path: Path) -> AbstractContextManager[None]:
    """Raise `CacheError` when the block cannot write; the visible version stays as it was."""
    return files.writing(path, CacheError)


def now() -> str:
    """Return the time of a record, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
