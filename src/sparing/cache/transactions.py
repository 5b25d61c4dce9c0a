"""How a cache commits: Lance transactions that carry our record, synced to the disk."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lance
import lance.fragment
import pyarrow as pa
from lance.dataset import Transaction

from sparing.cache import durable
from sparing.cache.metadata import PROPERTY, Metadata
from sparing.errors import CacheError


def commit(
    dataset: Any,
    path: Path,
    transaction: Transaction,
    metadata: Metadata,
    record: dict[str, Any],
    known: set[Path],
) -> tuple[Any, Metadata]:
    """Make a transaction and its record visible in one version, on the disk before this returns.

    Args:
        dataset: the Lance dataset that the transaction was made from.
        path: its folder.
        transaction: what changes.
        metadata: the metadata to commit.
        record: what the history says of it; round, version and time are filled in.
        known: the files that were there before the transaction wrote its own.

    Returns:
        The dataset at the new version, and the metadata with the record in its history.
    """
    entry = {"op": record["op"], "round": metadata.round, "version": dataset.version + 1, "time": now()}
    metadata = metadata.with_record({**entry, **record})
    transaction.transaction_properties = {PROPERTY: metadata.to_json()}
    # Lance does not sync, and a version must not become visible before its data is on the disk.
    durable.sync_tree(path, known)
    written = durable.files_below(path)
    dataset = lance.LanceDataset.commit(dataset, transaction, max_retries=0)
    durable.sync_tree(path, written)
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
            return Metadata.from_json(text, str(path))
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


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name what could not be written; a failed write leaves the visible version as it was."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"{path} could not be written: {first_line(error)}. Nothing was changed; free some space "
            "or check the permissions, then run the same command again"
        ) from error


def first_line(error: BaseException) -> str:
    """Give what an error of Lance says, without its place in the source."""
    return str(error).split("\n", 1)[0].split(", /", 1)[0]


def now() -> str:
    """Give the time of a record, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
