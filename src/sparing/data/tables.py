"""Output tables: a model's distributions by sample id, read in chunks, checked and written.

An output table has the columns `id` (string or integer), `probs` (list of C floats) and optionally `label`
(integer). It may be a Parquet file, anything with the Arrow stream interface, or numpy arrays. Rows are
matched by id, never by position.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sparing.errors import InputError
from sparing.ids import IdIndex, as_ids, name_first
from sparing.numerics.arrays import as_array
from sparing.numerics.distributions import as_distributions
from sparing.outputs import Classes, OutputKind, Outputs
from sparing.outputs.chunks import rows_per_chunk
from sparing.storage.files import local, replacing, writing

NO_LABEL = -1
"""Stands for a missing label in label arrays."""

ARROW_ERRORS = (pa.ArrowException, OSError)
"""What pyarrow raises on a file that is missing, damaged or something else."""


@dataclass(frozen=True)
class OutputTable:
    """Outputs of m samples.

    Attributes:
        ids: m ids, an Arrow array of `string` or `int64`.
        outputs: m outputs of one kind; of distributions, shape (m, C), float32, rows summing to 1.
        labels: shape (m,), int64 in [0, C) or -1 where unknown; None when the table has no labels.
    """

    ids: pa.Array
    outputs: Outputs
    labels: npt.NDArray[np.int64] | None

    @property
    def probs(self) -> npt.NDArray[np.float32]:
        """The outputs, where they are distributions."""
        probs: npt.NDArray[np.float32] = self.outputs
        return probs

    def __len__(self) -> int:
        return len(self.ids)


def read_outputs(source: Any) -> OutputTable:
    """Read a whole output table.

    Args:
        source: as for `iter_outputs`.

    Returns:
        All rows, in the order of the table.

    Raises:
        InputError: as for `iter_outputs`.
    """
    chunks = list(iter_outputs(source))
    labels = [chunk.labels for chunk in chunks if chunk.labels is not None]
    return OutputTable(
        ids=pa.concat_arrays([chunk.ids for chunk in chunks]),
        outputs=np.concatenate([chunk.probs for chunk in chunks]),
        labels=np.concatenate(labels) if labels else None,
    )


def iter_outputs(
    source: Any, chunk_rows: int = 65536, *, kind: OutputKind | None = None
) -> Iterator[OutputTable]:
    """Read an output table chunk by chunk; memory does not grow with its rows, apart from their ids.

    Args:
        source: path of a Parquet file; an Arrow table, record batch reader or anything else with
            `__arrow_c_stream__` (polars, pandas, DuckDB); or a tuple of arrays (ids, probs) or
            (ids, probs, labels).
        chunk_rows: rows of every chunk but the last; fewer where rows are wide, see `rows_per_chunk`.
        kind: what the outputs are, for other kinds than distributions; their columns are the kind's then.

    Returns:
        An iterator over the chunks. What the schema gives away is checked before the first one is asked for,
        a row with its chunk, and that no id occurs twice after the last chunk: commit nothing before the
        iterator has ended.

    Raises:
        InputError: no such file, not a Parquet file, damaged; a column is missing or of another type; no
            rows; an id is missing or occurs twice; rows of differing length; a row is no distribution; a
            label is not in [0, C).
    """
    wanted = list(kind.to_columns(kind.join([]))) if kind is not None else ["probs"]
    if isinstance(source, tuple):
        schema, batches, what = *_from_arrays(source), "outputs"
    elif isinstance(source, str | Path):
        file = open_parquet(source)
        schema, what = file.schema_arrow, str(source)
        chunk_rows = rows_per_chunk(_width(file), chunk_rows)
        columns = [name for name in ("id", *wanted, "label") if name in schema.names]
        batches = file.iter_batches(batch_size=chunk_rows, columns=columns)
    elif hasattr(source, "__arrow_c_stream__"):
        reader = pa.RecordBatchReader.from_stream(source)
        schema, batches, what = reader.schema, reader, "outputs"
    else:
        raise InputError(
            "outputs: expected the path of a Parquet file, an Arrow table or stream, or a tuple of arrays "
            f"(ids, probs[, labels]), got {type(source).__name__}"
        )
    for name in ("id", *wanted):
        if name not in schema.names:
            raise InputError(f"{what}: no column {name!r}; there are {', '.join(map(repr, schema.names))}")
    if kind is None or kind.name == Classes.name:
        probs = schema.field("probs").type
        if not (_is_list(probs) and _is_number(probs.value_type)):
            raise InputError(f"{what}: the column 'probs' must be a list of C floats, not {probs}")
    return _check_chunks(_rechunk(batches, chunk_rows, what), what, kind)


def write_outputs(
    path: str | Path, ids: Any, probs: npt.ArrayLike, labels: npt.ArrayLike | None = None
) -> None:
    """Write an output table that `read_outputs` reads back; the file appears whole or not at all.

    Args:
        path: the Parquet file to write.
        ids: m unique ids, strings or integers.
        probs: shape (m, C), distributions.
        labels: shape (m,), integers in [0, C), -1 or NaN where unknown.

    Raises:
        InputError: bad rows, as for `iter_outputs`.
        StorageError: the file could not be written.
    """
    arrays = (ids, probs) if labels is None else (ids, probs, labels)
    with TableWriter(path) as writer:
        for chunk in iter_outputs(arrays):
            columns = {"id": chunk.ids, "probs": list_column(chunk.probs)}
            if chunk.labels is not None:
                columns["label"] = pa.array(chunk.labels, mask=chunk.labels == NO_LABEL)
            writer.write(pa.table(columns))


class TableWriter:
    """Writes a Parquet file chunk by chunk; it appears whole or not at all. Use it as a context manager.

    Args:
        path: the file, which keeps what it held until the block has ended without an error.

    Raises:
        InputError: the path is a folder.
        StorageError: the file could not be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._replacing = replacing(self.path)
        self._writer: Any = None

    def __enter__(self) -> "TableWriter":
        if self.path.is_dir():
            raise InputError(f"{self.path}: cannot be written: it is a folder")
        self._draft = self._replacing.__enter__()
        with writing(self.path):
            self._draft.open("wb").close()  # now rather than after the first chunk
        return self

    def write(self, table: pa.Table) -> None:
        """Append a chunk; all chunks have the columns of the first."""
        with writing(self.path):
            if self._writer is None:
                self._writer = pq.ParquetWriter(local(self._draft), table.schema, compression="zstd")
            self._writer.write_table(table)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        whole = False
        try:
            if self._writer is not None:
                with writing(self.path):
                    self._writer.close()
                whole = kind is None
        finally:
            # The draft is dropped without the error of the block: an OSError there is not about this file.
            dropped = (GeneratorExit, GeneratorExit(), None)
            self._replacing.__exit__(*((None, None, None) if whole else dropped))


def list_column(probs: npt.NDArray[np.floating[Any]]) -> pa.Array:
    """Turn a matrix into an Arrow list column, one list per row, without copying the values.

    Args:
        probs: shape (m, C), at most 2**31 - 1 entries.

    Returns:
        m lists of C numbers.
    """
    m, width = probs.shape
    offsets = np.arange(m + 1, dtype=np.int32) * np.int32(width)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(probs).ravel()))


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """Open a Parquet file, or say why it is invalid.

    Raises:
        InputError: no such file, a folder, another format, or cut short.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a Parquet file" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {what}")
    try:
        # By default the columns of the whole file are read ahead and held.
        return pq.ParquetFile(local(path), pre_buffer=False, buffer_size=1 << 20)
    except ARROW_ERRORS as error:
        raise InputError(f"{path}: not a Parquet file, or cut short ({error})") from error


def as_labels(column: Any, ids: pa.Array, *, what: str, classes: int | None = None) -> npt.NDArray[np.int64]:
    """Bring labels to integers, -1 where they are missing.

    Args:
        column: m labels, an Arrow or numpy array of integers, or of floats that are whole or NaN.
        ids: m ids, to name the offending row.
        what: where they come from, for the error message.
        classes: C, when labels must lie below it.

    Returns:
        Shape (m,), int64.

    Raises:
        InputError: labels of another type, another length, or out of range.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    try:
        array = pa.array(array, from_pandas=True) if not isinstance(array, pa.Array) else array
        if pa.types.is_floating(array.type):
            array = pc.if_else(pc.is_nan(array), None, array)
        if not _is_number(array.type) and not pa.types.is_null(array.type):
            raise InputError(f"{what}: labels must be integers (class indices), not {array.type}")
        labels: npt.NDArray[np.int64] = (
            array.cast(pa.int64()).fill_null(NO_LABEL).to_numpy(zero_copy_only=False)
        )
    except pa.ArrowException as error:
        raise InputError(f"{what}: labels must be integers (class indices): {error}") from error
    if len(labels) != len(ids):
        raise InputError(f"{what}: {len(labels)} labels for {len(ids)} ids")
    wrong = labels < NO_LABEL if classes is None else (labels < NO_LABEL) | (labels >= classes)
    if wrong.any():
        upper = "" if classes is None else f" and below {classes}, the number of classes"
        message = name_first(ids, wrong, lambda row: f"has the label {labels[row]}")
        raise InputError(f"{what}: {message}; labels must be at least 0{upper}, or missing")
    return labels


def _from_arrays(source: tuple[Any, ...]) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
    if len(source) not in (2, 3):
        raise InputError(f"outputs: expected (ids, probs) or (ids, probs, labels), got {len(source)} parts")
    ids = as_ids(source[0], what="outputs")
    try:
        probs = as_array(source[1])
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"outputs: probs are not one array of numbers of shape (m, C): {error}") from error
    if probs.ndim != 2 or probs.dtype.kind not in "fiu":
        raise InputError(
            f"outputs: probs must be numbers of shape (m, C), got shape {probs.shape} of {probs.dtype}"
        )
    if len(probs) != len(ids):
        raise InputError(f"outputs: {len(ids)} ids but {len(probs)} rows of probs")
    columns = {"id": ids, "probs": pa.FixedSizeListArray.from_arrays(pa.array(probs.ravel()), probs.shape[1])}
    if len(source) == 3 and source[2] is not None:
        columns["label"] = pa.array(as_labels(source[2], ids, what="outputs"))
    batch = pa.record_batch(columns)
    return batch.schema, [batch]


def _rechunk(batches: Iterable[pa.RecordBatch], rows: int, what: str) -> Iterator[pa.Table]:
    """Cut and join batches so that every one but the last has the same number of rows."""
    waiting: list[pa.RecordBatch] = []
    held = 0
    try:
        for batch in batches:
            start = 0
            if batch.num_rows and not held:
                rows = rows_per_chunk(_values_per_row(batch), rows)
            while held + batch.num_rows - start >= rows:
                cut = rows - held
                yield pa.Table.from_batches([*waiting, batch.slice(start, cut)])
                start, waiting, held = start + cut, [], 0
            if start < batch.num_rows:
                waiting.append(batch.slice(start))
                held += batch.num_rows - start
    except ARROW_ERRORS as error:
        raise InputError(f"{what}: cannot be read to the end, the data is damaged ({error})") from error
    if held:
        yield pa.Table.from_batches(waiting)


def _width(file: pq.ParquetFile) -> int:
    """Return how many numbers a row of `probs` holds on average, without reading any; 0 if there is none."""
    metadata, values = file.metadata, 0
    for number in range(metadata.num_row_groups if metadata.num_rows else 0):
        group = metadata.row_group(number)
        columns = [group.column(at) for at in range(group.num_columns)]
        values += sum(column.num_values for column in columns if column.path_in_schema.startswith("probs."))
    return int(values // max(metadata.num_rows, 1))


def _values_per_row(batch: pa.RecordBatch) -> int:
    if "probs" not in batch.schema.names or not _is_list(batch.schema.field("probs").type):
        return 0
    return int(len(batch.column("probs").flatten()) // batch.num_rows)


def _check_chunks(tables: Iterable[pa.Table], what: str, kind: OutputKind | None) -> Iterator[OutputTable]:
    seen = []
    classes = kind.n_classes if isinstance(kind, Classes) else None
    for table in tables:
        ids = as_ids(table.column("id"), what=what)
        seen.append(ids)
        if kind is None or isinstance(kind, Classes):
            outputs: Outputs = _matrix(table.column("probs").combine_chunks(), ids, classes, what)
            classes = outputs.shape[1]
        else:
            outputs = kind.check(kind.from_columns(table), what=what)
        labels = None
        if "label" in table.column_names:
            labels = as_labels(table.column("label"), ids, what=what, classes=classes)
        yield OutputTable(ids, outputs, labels)
    if not seen:
        raise InputError(f"{what}: the table is empty")
    IdIndex(pa.concat_arrays(seen), what=what)  # refuses ids that occur twice


def _matrix(column: pa.Array, ids: pa.Array, classes: int | None, what: str) -> npt.NDArray[np.float32]:
    if column.null_count:
        missing = column.is_null().to_numpy(zero_copy_only=False)
        raise InputError(f"{what}: {name_first(ids, missing, lambda _: 'has no probs')}")
    if pa.types.is_fixed_size_list(column.type):
        lengths = np.full(len(column), column.type.list_size)
    else:
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    width = int(lengths[0]) if classes is None else classes
    differs = lengths != width
    if differs.any():
        message = name_first(ids, differs, lambda row: f"has {lengths[row]} entries in probs")
        raise InputError(f"{what}: {message}, but the rows before it have {width}")
    values = column.flatten()
    if values.null_count:
        missing = values.is_null().to_numpy(zero_copy_only=False).reshape(-1, width).any(axis=1)
        raise InputError(f"{what}: {name_first(ids, missing, lambda _: 'has a missing entry in probs')}")
    matrix = values.to_numpy(zero_copy_only=False).reshape(len(column), width)
    try:
        return as_distributions(matrix, what=what)
    except InputError:
        # Ids become Python objects only now that one of them is to be named.
        return as_distributions(matrix, what=what, ids=ids.to_pylist())


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
