"""Which model is right on which sample: read from outcomes, predictions or output tables, matched by id."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.bounds.columns import Table, listed
from sparing.bounds.numbers import row_that_is_no_number
from sparing.data.tables import NO_LABEL, iter_outputs
from sparing.errors import InputError
from sparing.ids import IdIndex, as_ids, name_first

Missing = Literal["error", "rows", "models", "wrong"]
Options = int | npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of N models on m samples.

    Attributes:
        names: the N models, in the order of the columns.
        ids: m distinct ids, an Arrow array of strings or integers.
        correct: shape (m, N), whether model j is right on sample i.
        classes: how many options a guess chooses from: one number, shape (m,), or None if not known.
        notes: what was left out or filled in while reading, one line each.
    """

    names: tuple[str, ...]
    ids: pa.Array
    correct: npt.NDArray[np.bool_]
    classes: Options
    notes: tuple[str, ...]


def read_outcomes(
    paths: Sequence[str | Path],
    *,
    models: Sequence[str] | None = None,
    missing: Missing = "error",
    id_column: str = "id",
    label_column: str = "label",
    classes_column: str | None = None,
) -> Outcomes:
    """Read outcomes from one table with a column per model, or from one output table per model.

    A table with a column per model holds true/false or 1/0, or with a label column the predictions, which are
    right where they equal the label. An output table holds `id`, `probs` (list of C floats) and, in at least
    one of the tables, `label` (integer); the model is named after the file. All is matched by id.

    Args:
        paths: one CSV or Parquet table, or one or more Parquet output tables.
        models: the columns that are models; None takes all but id, label and classes.
        missing: what to do where a model has no row or value: "error" stops, "rows" keeps the samples that
            every model has, "models" keeps the models that have every sample, "wrong" counts it as wrong.
        id_column: name of the id column, in a table with a column per model.
        label_column: name of the label column there.
        classes_column: name of a column that says how many options each sample offers, if there is one.

    Returns:
        The outcomes, in the order in which ids first occur.

    Raises:
        InputError: a file or column that cannot be used, an id twice or missing, ids that do not match,
            values that are not outcomes, or missing values under "error".
    """
    if missing not in get_args(Missing):
        raise InputError(f"missing: {missing!r} must be one of {', '.join(get_args(Missing))}")
    if not paths:
        raise InputError("outcomes: no table was given")
    files = [Path(path) for path in paths]
    first = Table(files[0])
    if "probs" in first.names:
        if classes_column is not None:
            raise InputError(f"{files[0]}: an output table says itself how many classes there are")
        read = _from_output_tables(files)
        absent = [name for name in read[0] if models is not None and name not in models]
        if absent:
            raise InputError(f"costs: {listed(absent)} have no cost")
    elif len(files) > 1:
        raise InputError(
            f"{files[0]}: has no column 'probs'; several tables are read as output tables, one per model"
        )
    else:
        read = _from_columns(first, models, id_column, label_column, classes_column)
    return _without_missing(read, missing)


Read = tuple[list[str], pa.Array, npt.NDArray[np.bool_], npt.NDArray[np.bool_] | None, Options]
"""Names, ids, correct, which outcomes are known (None: all), classes."""


def _from_columns(
    table: Table, models: Sequence[str] | None, id_column: str, label_column: str, classes_column: str | None
) -> Read:
    ids = IdIndex(ids_of(table, id_column), what=str(table.path)).ids
    special = {id_column, label_column, classes_column}
    names = [name for name in table.names if name not in special] if models is None else list(models)
    if not names:
        raise InputError(f"{table.path}: there is no column of a model beside {listed(table.names)}")
    table.need(*names)
    labels = table.read([label_column])[label_column] if label_column in table.names else None
    if labels is not None and labels.null_count:
        raise InputError(f"{table.path}: {labels.null_count} rows have no label in column {label_column!r}")
    right = np.empty((table.rows, len(names)), np.bool_)
    known = None
    start = 0
    for batch in table.batches(names):
        rows = slice(start, start + len(batch))
        by_model = np.empty(
            (len(names), len(batch)), np.bool_
        )  # turned over at once: rows lie apart in memory
        truth = None if labels is None else _decoded(labels.slice(start, len(batch)).combine_chunks())
        for j, name in enumerate(names):
            values = batch.column(j)
            if values.null_count:
                if known is None:
                    known = np.ones(right.shape, np.bool_)
                known[rows, j] = pc.is_valid(values).to_numpy(zero_copy_only=False)
            by_model[j] = _right(values, truth, f"{table.path}: column {name!r}", start)
        right[rows] = by_model.T
        start += len(batch)
    classes: Options = None
    if classes_column is not None:
        table.need(classes_column)
        column = table.read([classes_column])[classes_column]
        if not pa.types.is_integer(column.type) or column.null_count or pc.min(column).as_py() < 1:
            raise InputError(f"{table.path}: column {classes_column!r} must hold a whole number >= 1 per row")
        classes = column.to_numpy().astype(np.int64)
    elif labels is not None:
        distinct = len(labels.unique())
        classes = distinct if distinct > 1 else None
    return names, ids, right, known, classes


def _right(values: pa.Array, truth: pa.Array | None, where: str, rows_before: int) -> npt.NDArray[np.bool_]:
    values = _decoded(values)
    kind = values.type
    if pa.types.is_null(kind):
        return np.zeros(len(values), np.bool_)
    if truth is not None and not pa.types.is_boolean(kind):
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        truth_number = pa.types.is_integer(truth.type) or pa.types.is_floating(truth.type)
        try:
            if number == truth_number:
                return _plain(pc.equal(values, truth))
        except pa.ArrowException:
            pass
        _name_what_is_no_number(values, where, rows_before)
        raise InputError(f"{where} holds {kind}, but the labels are {truth.type}; they cannot be compared")
    if pa.types.is_boolean(kind):
        return _plain(values)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        _name_what_is_no_number(values, where, rows_before)
        raise InputError(
            f"{where} holds {kind}; without a label column a model's column says true or false, 1 or 0. "
            "For predictions, name the label column (--label)"
        )
    bad = pc.and_(pc.not_equal(values, 0), pc.not_equal(values, 1))
    if pc.any(bad).as_py():
        row = pc.index(bad, True).as_py()
        raise InputError(
            f"{where} is {values[row].as_py()!r} in row {rows_before + row + 1}; without a label column a "
            "model's column says true or false, 1 or 0. For predictions, name the label column (--label)"
        )
    return _plain(pc.equal(values, 1))


def _name_what_is_no_number(values: pa.Array, where: str, rows_before: int) -> None:
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return
    row = row_that_is_no_number(values)
    if row is not None:
        raise InputError(
            f"{where} is {values[row].as_py()!r} in row {rows_before + row + 1}, where other rows hold "
            "numbers; leave the cell empty where the outcome is not known"
        )


def _decoded(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _plain(values: pa.Array) -> npt.NDArray[np.bool_]:
    filled = pc.fill_null(values, False) if values.null_count else values
    result: npt.NDArray[np.bool_] = filled.to_numpy(zero_copy_only=False)
    return result


def _from_output_tables(paths: Sequence[Path]) -> Read:
    names = [path.stem for path in paths]
    for path in paths:
        if names.count(path.stem) > 1:
            raise InputError(f"{path}: two tables are named {path.stem!r}; rename one")
    read = [_predictions(path) for path in paths]
    union = read[0].ids
    for path, one in zip(paths, read, strict=True):
        if one.classes != read[0].classes:
            raise InputError(f"{path}: has {one.classes} classes, but {paths[0]} has {read[0].classes}")
        new = IdIndex(union, what=str(paths[0])).positions(one.ids) < 0
        union = pa.concat_arrays([union, one.ids.filter(pa.array(new))])
    index = IdIndex(union)
    places = [index.positions(one.ids) for one in read]
    labels = np.full(len(union), NO_LABEL, np.int64)
    for path, one, rows in zip(paths, read, places, strict=True):
        differs = (labels[rows] != NO_LABEL) & (one.labels != NO_LABEL) & (labels[rows] != one.labels)
        if differs.any():
            raise InputError(f"{path}: {name_first(one.ids, differs, lambda _: 'has another label before')}")
        labels[rows] = np.where(one.labels == NO_LABEL, labels[rows], one.labels)
    unknown = labels == NO_LABEL
    if unknown.any():
        raise InputError(
            f"{name_first(union, unknown, lambda _: 'has no label in any of the output tables')}"
        )
    right = np.zeros((len(union), len(paths)), np.bool_)
    known = np.zeros_like(right)
    for j, (one, rows) in enumerate(zip(read, places, strict=True)):
        right[rows, j] = one.predicted == labels[rows]
        known[rows, j] = True
    return names, union, right, None if known.all() else known, read[0].classes


@dataclass(frozen=True)
class _Predictions:
    """An output table without its distributions: ids, classes predicted, labels (-1 unknown), and C."""

    ids: pa.Array
    predicted: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    classes: int


def _predictions(path: Path) -> _Predictions:
    ids, predicted, labels, classes = [], [], [], 0
    for chunk in iter_outputs(path):
        ids.append(chunk.ids)
        predicted.append(chunk.probs.argmax(axis=1))
        labels.append(np.full(len(chunk), NO_LABEL) if chunk.labels is None else chunk.labels)
        classes = chunk.probs.shape[1]
    return _Predictions(pa.concat_arrays(ids), np.concatenate(predicted), np.concatenate(labels), classes)


def ids_of(table: Table, id_column: str) -> pa.Array:
    """The ids of a table, as Sparing knows them; raises InputError where there are none."""
    if id_column not in table.names:
        raise InputError(
            f"{table.path}: there is no column {id_column!r}; name the id column (--id), "
            f"one of {listed(table.names)}"
        )
    if table.rows == 0:
        raise InputError(f"{table.path}: has no rows")
    return as_ids(table.read([id_column])[id_column], what=f"{table.path}, column {id_column!r}")


def _without_missing(read: Read, missing: Missing) -> Outcomes:
    names, ids, right, known, classes = read
    if known is None:
        return Outcomes(tuple(names), ids, right, classes, ())
    gaps = (~known).sum(axis=0)
    lacking = [f"{name} ({gap})" for name, gap in zip(names, gaps, strict=True) if gap]
    note: str
    if missing == "error":
        raise InputError(
            f"{len(lacking)} of {len(names)} models lack some of the {len(ids)} samples: {listed(lacking)}. "
            f"Use --missing rows to keep the {int(known.all(axis=1).sum())} samples that all models have, "
            "--missing models to leave these models out, or --missing wrong to count a gap as a wrong answer"
        )
    if missing == "wrong":
        note = f"{int(gaps.sum())} missing outcomes count as wrong: {listed(lacking)}"
        return Outcomes(tuple(names), ids, right & known, classes, (note,))
    if missing == "models":
        kept = np.flatnonzero(gaps == 0)
        if len(kept) == 0:
            raise InputError("every model lacks some samples; use --missing rows or --missing wrong")
        note = f"{len(lacking)} models with missing outcomes were left out: {listed(lacking)}"
        return Outcomes(tuple(names[j] for j in kept), ids, right[:, kept], classes, (note,))
    rows = np.asarray(known.all(axis=1))
    if not rows.any():
        raise InputError(
            f"no sample has an outcome of every model; they lack {listed(lacking)}: do the ids match?"
        )
    note = f"{int((~rows).sum())} of {len(rows)} samples were left out, since not every model has them"
    per_row: Options = classes[rows] if isinstance(classes, np.ndarray) else classes
    return Outcomes(tuple(names), ids.filter(pa.array(rows)), right[rows], per_row, (note,))
