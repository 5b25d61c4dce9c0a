"""Samples: ids and the values that models take, by position, from a table, a folder or Python objects."""

import hashlib
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.data.tables import ARROW_ERRORS, as_labels, open_parquet
from sparing.errors import InputError
from sparing.ids import IdIndex, as_ids
from sparing.storage.files import local

Int64 = npt.NDArray[np.int64]

ROW_GROUP_CACHE_BYTES = 1 << 30
"""How much of a Parquet file's values is held in memory between fetches."""

_PREFERRED = ("image", "value", "text", "path")


class Samples:
    """Unique ids and, by position, the value of each.

    Made by `open_samples`.

    Attributes:
        ids: n ids, an Arrow array of `string` or `int64`.
        what: where the samples come from, for error messages.
    """

    def __init__(
        self,
        ids: pa.Array,
        read: Callable[[Int64], list[Any]],
        *,
        what: str,
        labels: Callable[[], Int64 | None] = lambda: None,
        table: Callable[[Sequence[str]], pa.Table] | None = None,
        identity: Callable[[], str] | None = None,
    ) -> None:
        if len(ids) == 0:
            raise InputError(f"{what}: there are no samples")
        self.ids = ids
        self.what = what
        self._read = read
        self._labels = labels
        self._table = table
        self._identity = identity
        self._index = IdIndex(ids, what=what)

    def __len__(self) -> int:
        return len(self.ids)

    def index_of(self, ids: pa.Array) -> Int64:
        """Find the position of each id.

        Args:
            ids: k ids, an Arrow array of `string` or `int64`.

        Returns:
            Shape (k,), positions in [0, n), -1 where there is no such sample.

        Raises:
            InputError: the ids are of another type than those of the samples.
        """
        return self._index.positions(ids)

    @cached_property
    def identity(self) -> str | None:
        """What the samples are, as text that changes when they do; None where that takes reading them.

        A Parquet file goes by its size, the time of its last change and the column in use, a folder by the
        sizes and times of its files, a Lance data set by its version. Objects in memory, and files that a
        table names, have to be read.
        """
        return None if self._identity is None else self._identity()

    def known_as(self, identity: str | None) -> bool:
        """Return whether the samples are known, without reading them, to be those of an earlier identity."""
        return self.identity is not None and self.identity == identity

    def fetch(self, positions: npt.NDArray[np.integer[Any]]) -> list[Any]:
        """Read the values of some samples.

        Args:
            positions: shape (k,), in [0, n), in any order, repeats allowed.

        Returns:
            k values, in the order asked for: bytes, text, numbers, or numpy arrays for lists of numbers.

        Raises:
            InputError: a position is out of range, or a value is missing or cannot be read; its id is named.
        """
        at: Int64 = np.asarray(positions, dtype=np.int64)
        if len(at) == 0:
            return []
        if at.min() < 0 or at.max() >= len(self):
            raise InputError(f"{self.what}: a position is out of range [0, {len(self)})")
        return self._read(at)

    def labels(self) -> Int64 | None:
        """Read the label of every sample.

        Returns:
            Shape (n,), -1 where it is missing; None when the samples have no labels.

        Raises:
            InputError: the label column that was asked for does not hold integers from 0 up.
        """
        return self._labels()

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Read other columns of the table that the samples lie in.

        Args:
            names: of the columns.

        Returns:
            `id` and the columns, one row per sample.

        Raises:
            InputError: the samples do not lie in a table, or a column is missing.
        """
        if self._table is None:
            raise InputError(f"{self.what}: these samples have no columns: give a table")
        return self._table(["id", *names])


def _check_columns(names: Sequence[str], there: Sequence[str], what: str) -> None:
    for name in names:
        if name not in there:
            raise InputError(f"{what}: no column {name!r}; there are {', '.join(map(repr, there))}")


def open_samples(source: Any, *, column: str | None = None, label_column: str | None = None) -> Samples:
    """Open samples, reading only their ids.

    Args:
        source: path of a Parquet file with the columns `id` and one value column; of a Lance data set with
            the same; of a folder of files (the id is the path below the folder, the value the bytes); an
            Arrow table or stream (polars, pandas); a mapping from id to value; or a sequence of (id, value).
        column: the value column; by default the only one, or else the first of image, value, text, path. A
            text column named `path`, or ending in `_path`, names files, relative to the table's folder, and
            the value is their bytes. It may name any regular file that you can read, by an absolute path,
            by `..` or through a link: read a table from elsewhere before you use it. Pipes and devices are
            refused.
        label_column: the label column; by default `label`, if it holds integers.

    Samples that are open already are given back as they are.

    Returns:
        The samples.

    Raises:
        InputError: nothing is there, another format, a column is missing or none is chosen, no rows, or an id
            is missing, occurs twice or is of another type.
    """
    if isinstance(source, Samples):
        return source
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if (path / "_versions").is_dir():
            return _open_lance(path, column, label_column)
        if not path.is_dir():
            return _open_parquet(path, column, label_column)
        samples = _open_folder(path)
    elif hasattr(source, "__arrow_c_stream__"):
        return _open_arrow(source, column, label_column)
    elif isinstance(source, Mapping | Iterable):
        samples = _open_pairs(source)
    else:
        raise InputError(
            f"samples: expected a path, an Arrow table, a mapping or a sequence of (id, value), "
            f"got {type(source).__name__}"
        )
    for option, value in (("column", column), ("label column", label_column)):
        if value is not None:
            raise InputError(f"{samples.what}: a {option} can be chosen in tables only")
    return samples


class _Columns:
    """Which columns of a table hold the ids, the values and the labels."""

    def __init__(
        self, schema: pa.Schema, column: str | None, label: str | None, what: str, root: Path
    ) -> None:
        names = schema.names
        _check_columns([name for name in ("id", column, label) if name is not None], names, what)
        self.what, self.root = what, root
        self.label_asked_for = label is not None
        self.label = label or "label"
        if not self.label_asked_for and not (
            self.label in names and pa.types.is_integer(schema.field("label").type)
        ):
            self.label = ""
        candidates = [name for name in names if name not in ("id", "label", label)]
        if column is None and len(candidates) > 1:
            candidates = [name for name in _PREFERRED if name in candidates][:1] or candidates
        if column is None and len(candidates) != 1:
            found = f"several ({', '.join(map(repr, candidates))})" if candidates else "none"
            raise InputError(f"{what}: one column must hold the values, there are {found}; choose the column")
        self.value = column or candidates[0]
        kind = schema.field(self.value).type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        self.is_path = is_text and (self.value == "path" or self.value.endswith("_path"))

    def values(self, column: pa.Array | pa.ChunkedArray, ids: pa.Array, positions: Int64) -> list[Any]:
        """Turn a column, read at some positions, into Python values."""
        if column.null_count:
            row = int(pc.index(column.is_null(), True).as_py())
            raise InputError(
                f"{self.what}: the sample {_id(ids, positions[row])} has no value in {self.value!r}"
            )
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        values = [value for chunk in chunks for value in _python_values(chunk)]
        if not self.is_path:
            return values
        paths = [self.root / value for value in values]
        return _read_files(paths, lambda row: _id(ids, positions[row]))

    def labels(self, read: Callable[[str], pa.ChunkedArray], ids: pa.Array) -> Int64 | None:
        return as_labels(read(self.label), ids, what=self.what) if self.label else None


def _open_parquet(path: Path, column: str | None, label: str | None) -> Samples:
    file = open_parquet(path)
    what = str(path)
    columns = _Columns(file.schema_arrow, column, label, what, path.parent)

    def read_column(name: str) -> pa.ChunkedArray:
        try:
            return file.read(columns=[name]).column(0)
        except ARROW_ERRORS as error:
            raise InputError(f"{what}: cannot be read, the data is damaged ({error})") from error

    ids = as_ids(read_column("id"), what=what)
    groups = _RowGroups(file, columns.value, what)

    def read(positions: Int64) -> list[Any]:
        return columns.values(groups.take(positions), ids, positions)

    def read_columns(names: Sequence[str]) -> pa.Table:
        _check_columns(names, file.schema_arrow.names, what)
        try:
            return file.read(columns=list(names))
        except ARROW_ERRORS as error:
            raise InputError(f"{what}: cannot be read, the data is damaged ({error})") from error

    identity = None if columns.is_path else lambda: f"file:{_stamp(path)} {columns.value}"
    labels = partial(columns.labels, read_column, ids)
    return Samples(ids, read, what=what, labels=labels, table=read_columns, identity=identity)


class _RowGroups:
    """Random access to one column of a Parquet file, by row groups kept while there is room."""

    def __init__(self, file: Any, column: str, what: str) -> None:
        self.file, self.column, self.what = file, column, what
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        self.starts: Int64 = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.held: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def take(self, positions: Int64) -> pa.ChunkedArray:
        group_of = np.searchsorted(self.starts, positions, side="right") - 1
        order = np.argsort(group_of, kind="stable")
        parts = []
        places = []
        # Groups in memory first: reading the others may push them out.
        for group in sorted(set(group_of.tolist()), key=lambda g: (g not in self.held, g)):
            rows = order[slice(*np.searchsorted(group_of, [group, group + 1], sorter=order))]
            parts.extend(self._group(group).take(pa.array(positions[rows] - self.starts[group])).chunks)
            places.append(rows)
        if len(places) == 1 and len(parts) == 1:
            return pa.chunked_array(parts)
        back = np.empty(len(positions), dtype=np.int64)
        back[np.concatenate(places)] = np.arange(len(positions))
        return pa.chunked_array(parts).take(pa.array(back))

    def _group(self, group: int) -> pa.ChunkedArray:
        if group in self.held:
            self.held.move_to_end(group)
            return self.held[group]
        try:
            column = self.file.read_row_group(group, columns=[self.column]).column(0)
        except ARROW_ERRORS as error:
            raise InputError(f"{self.what}: cannot be read, the data is damaged ({error})") from error
        self.held[group] = column
        while len(self.held) > 1 and sum(c.nbytes for c in self.held.values()) > ROW_GROUP_CACHE_BYTES:
            self.held.popitem(last=False)
        return column


def _open_lance(path: Path, column: str | None, label: str | None) -> Samples:
    import lance

    what = str(path)
    try:
        dataset = lance.dataset(local(what))
        schema = dataset.schema
    except (OSError, ValueError) as error:
        raise InputError(f"{what}: not a Lance data set, or damaged ({error})") from error
    columns = _Columns(schema, column, label, what, path.parent)

    def read_column(name: str) -> pa.ChunkedArray:
        return dataset.to_table(columns=[name]).column(0)

    ids = as_ids(read_column("id"), what=what)

    def read(positions: Int64) -> list[Any]:
        try:
            taken = dataset.take(positions.tolist(), columns=[columns.value]).column(0)
        except (OSError, ValueError) as error:
            raise InputError(f"{what}: cannot be read: {error}") from error
        return columns.values(taken, ids, positions)

    def read_columns(names: Sequence[str]) -> pa.Table:
        _check_columns(names, schema.names, what)
        return dataset.to_table(columns=list(names))

    identity = (
        None if columns.is_path else lambda: f"lance:{path.resolve()} {dataset.version} {columns.value}"
    )
    labels = partial(columns.labels, read_column, ids)
    return Samples(ids, read, what=what, labels=labels, table=read_columns, identity=identity)


def _open_arrow(source: Any, column: str | None, label: str | None) -> Samples:
    table = pa.RecordBatchReader.from_stream(source).read_all()
    columns = _Columns(table.schema, column, label, "samples", Path())
    ids = as_ids(table.column("id"), what="samples")

    def read_columns(names: Sequence[str]) -> pa.Table:
        _check_columns(names, table.column_names, "samples")
        return table.select(list(names))

    return Samples(
        ids,
        lambda positions: columns.values(
            table.column(columns.value).take(pa.array(positions)), ids, positions
        ),
        what="samples",
        labels=lambda: columns.labels(table.column, ids),
        table=read_columns,
    )


def _open_folder(path: Path) -> Samples:
    names = []
    for folder, below, files in os.walk(path):
        # Hidden files (.DS_Store, .git) are nobody's samples.
        below[:] = [name for name in below if not name.startswith(".")]
        names += [Path(folder, f).relative_to(path).as_posix() for f in files if not f.startswith(".")]
    names.sort()
    what = str(path)
    if names and all(name.endswith(".parquet") for name in names):
        raise InputError(f"{what}: a folder of Parquet files is no sample table; join them into one file")
    try:
        ids = as_ids(names, what=what)
    except UnicodeEncodeError as error:
        raise InputError(f"{what}: a file name is not valid UTF-8: {error.object!r}") from error

    def read(positions: Int64) -> list[Any]:
        chosen = [names[at] for at in positions.tolist()]
        return _read_files([path / name for name in chosen], lambda row: repr(chosen[row]))

    def identity() -> str:
        stamps = "\n".join(f"{name} {_stamp(path / name)}" for name in names)
        return "folder:" + hashlib.sha256(stamps.encode()).hexdigest()

    return Samples(ids, read, what=what, identity=identity)


def _open_pairs(source: Any) -> Samples:
    pairs = list(source.items() if isinstance(source, Mapping) else source)
    for row, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(f"samples: item {row} is not a pair (id, value)")
    ids = as_ids([pair[0] for pair in pairs], what="samples")
    values = [pair[1] for pair in pairs]
    return Samples(ids, lambda positions: [values[at] for at in positions.tolist()], what="samples")


def _python_values(array: pa.Array) -> list[Any]:
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item = kind.value_type
        flat = array.flatten()
        if (pa.types.is_integer(item) or pa.types.is_floating(item)) and not flat.null_count:
            ends = np.cumsum(pc.list_value_length(array).to_numpy(zero_copy_only=False)).tolist()
            values = flat.to_numpy(zero_copy_only=False)
            return [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return list(array.to_pylist())


def _read_files(paths: list[Path], name: Callable[[int], str]) -> list[Any]:
    values = []
    for row, path in enumerate(paths):
        try:
            values.append(_read_file(path))
        except (OSError, ValueError) as error:  # a path with a null character is a ValueError
            raise InputError(f"the sample {name(row)} cannot be read: {error}") from error
    return values


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return f"{found.st_size} {found.st_mtime_ns}"


def _read_file(path: Path) -> bytes:
    # Opening a pipe would wait for a writer, and a device may have no end.
    flags = (
        os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    )
    descriptor = os.open(path, flags)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path} is no regular file")
        return file.read()


def _id(ids: pa.Array, position: Any) -> str:
    return repr(ids[int(position)].as_py())
