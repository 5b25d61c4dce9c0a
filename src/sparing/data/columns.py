"""Columns of samples by id: categories, numbers, texts and embeddings that a refresh may learn from."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.data.samples import Samples
from sparing.data.tables import ARROW_ERRORS, open_parquet
from sparing.errors import InputError
from sparing.ids import IdIndex, as_ids

ColumnKind = Literal["category", "number", "text", "vector"]

FEWEST_TEXTS = 20
TEXT_SHARE = 0.1
"""Strings are texts where more than 20, and more than a tenth of the rows, differ; else categories."""


class SampleColumns:
    """Columns of samples, looked up by id; made by `open_columns`.

    Attributes:
        kinds: what each column is, by name.
        digest: of the names, the ids and the values.
    """

    def __init__(self, table: pa.Table, what: str) -> None:
        """Take in a table of an `id` and one column or more.

        Raises:
            InputError: no columns, ids that are missing, repeated or of another type, a column of a type that
                nothing is learned from, or vectors of several lengths.
        """
        ids = as_ids(table.column("id"), what=what)
        self._index = IdIndex(ids, what=what)
        self._what = what
        names = [name for name in table.column_names if name != "id"]
        if not names:
            raise InputError(f"{what}: there are no columns to learn from beside the ids")
        self._columns: dict[str, pa.Array | npt.NDArray[np.float64]] = {}
        self.kinds: dict[str, ColumnKind] = {}
        for name in names:
            self.kinds[name], self._columns[name] = _typed(table.column(name), f"{what}: column {name!r}")
        self.digest = _digest(ids, self._columns)

    def read(self, ids: pa.Array) -> dict[str, Any]:
        """Read the values of some samples.

        Args:
            ids: m ids; those that the table lacks have missing values.

        Returns:
            By column: m strings or None, numbers (m,), or vectors (m, d), with NaN where they are missing.

        Raises:
            InputError: ids of another type.
        """
        at = self._index.positions(ids)
        found: dict[str, Any] = {}
        for name, values in self._columns.items():
            if isinstance(values, np.ndarray):
                taken = values[at]
                taken[at < 0] = np.nan
                found[name] = taken
            else:
                found[name] = values.take(pa.array(at, mask=at < 0)).to_pylist()
        return found

    def check(self, ids: pa.Array) -> None:
        """Refuse a table that has none of these ids.

        Raises:
            InputError: it has none of them, or ids of another type.
        """
        if len(ids) and (self._index.positions(ids) < 0).all():
            raise InputError(
                f"{self._what}: none of the cache's ids is among its ids, for example {ids[0].as_py()!r}: "
                "rows are matched by id"
            )


def open_columns(source: Any, samples: Samples | None) -> SampleColumns:
    """Open columns to learn from.

    Args:
        source: names of columns of the samples, as a sequence or as text ("extension,size"); a Parquet file
            with a column `id`, of which all other columns are taken ("files.parquet"), or some
            ("files.parquet:extension,size"); or an Arrow table or stream with a column `id`.
        samples: the samples, for columns that are theirs.

    Returns:
        The columns.

    Raises:
        InputError: no such file or column, no samples, samples without columns, or what `SampleColumns` says.
    """
    if hasattr(source, "__arrow_c_stream__"):
        table = pa.RecordBatchReader.from_stream(source).read_all()
        if "id" not in table.column_names:
            raise InputError("features: the table has no column 'id': rows are matched by id")
        return SampleColumns(table, "features")
    if isinstance(source, str | Path):
        path, colon, names = str(source).rpartition(":")
        if not path.endswith(".parquet"):
            path, colon, names = str(source), "", ""
        if path.endswith(".parquet"):
            return SampleColumns(_read_parquet(path, _listed(names, source) if colon else None), path)
        source = _listed(str(source), source)
    if not isinstance(source, Sequence):
        raise InputError(
            f"features: give names of columns, a Parquet file or an Arrow table, not {type(source).__name__}"
        )
    if samples is None:
        raise InputError(
            f"the features {', '.join(source)} are columns of the samples: give the samples, or a file "
            "(--features FILE.parquet)"
        )
    return SampleColumns(samples.columns(list(source)), samples.what)


def _listed(names: str, source: Any) -> list[str]:
    found = [name.strip() for name in names.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise InputError(f"features {str(source)!r}: write each column's name once, separated by commas")
    return found


def _read_parquet(path: str, names: list[str] | None) -> pa.Table:
    file = open_parquet(path)
    there = file.schema_arrow.names
    for name in ("id", *(names or ())):
        if name not in there:
            raise InputError(f"{path}: no column {name!r}; there are {', '.join(map(repr, there))}")
    try:
        return file.read(columns=None if names is None else ["id", *names])
    except ARROW_ERRORS as error:
        raise InputError(f"{path}: cannot be read to the end, the data is damaged ({error})") from error


def _typed(column: pa.ChunkedArray, what: str) -> tuple[ColumnKind, pa.Array | npt.NDArray[np.float64]]:
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_boolean(kind):
        return "category", values.cast(pa.string())
    if pa.types.is_temporal(kind):
        values = values.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
        kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number", values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        values = values.cast(pa.large_string())
        distinct = pc.count_distinct(values).as_py()
        is_text = distinct > max(FEWEST_TEXTS, TEXT_SHARE * len(values))
        return ("text" if is_text else "category"), values
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item = kind.value_type
        if pa.types.is_floating(item) or pa.types.is_integer(item):
            return "vector", _vectors(values, what)
    raise InputError(
        f"{what} is of type {kind}: nothing is learned from it. Give strings, numbers, or lists of numbers, "
        "or name the columns to use"
    )


def _vectors(values: pa.Array, what: str) -> npt.NDArray[np.float64]:
    lengths = pc.list_value_length(values).drop_null()
    widths = pc.unique(lengths).to_pylist()
    if len(widths) > 1:
        raise InputError(f"{what}: vectors of lengths {min(widths)} to {max(widths)}; all need the same")
    width = widths[0] if widths else 0
    found = np.full((len(values), width), np.nan)
    there = values.is_valid().to_numpy(zero_copy_only=False)
    flat = values.drop_null().flatten().cast(pa.float64(), safe=False)
    found[there] = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
    return found


class _Hashing:
    """A file that keeps nothing but the digest of what is written to it."""

    closed = False

    def __init__(self) -> None:
        self.sha = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha.update(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _digest(ids: pa.Array, columns: Mapping[str, pa.Array | npt.NDArray[np.float64]]) -> str:
    """Hash names and values; what lies in memory below a missing value is left out."""
    sink = _Hashing()
    texts = {name: pc.fill_null(v, "\0") for name, v in columns.items() if not isinstance(v, np.ndarray)}
    table = pa.table({"id": ids, **texts}).combine_chunks()
    with pa.PythonFile(sink, mode="w") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    for name, values in columns.items():
        if isinstance(values, np.ndarray):
            sink.write(f"{name} {values.shape}".encode())
            sink.write(np.where(np.isnan(values), np.nan, values).tobytes())
    return sink.sha.hexdigest()
