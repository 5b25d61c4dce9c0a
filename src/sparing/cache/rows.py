"""The rows of a cache: how they look in memory and in the columns of the table."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.cache.encodings import Encoded, encoded
from sparing.cache.layout import Layout
from sparing.data.tables import NO_LABEL
from sparing.outputs import Outputs


@dataclass(frozen=True)
class Imputations:
    """Answers that a model is predicted to give, for rows that it was not run on.

    Attributes:
        classes: shape (m,), int64; -1 for rows whose answer is that of their output.
        probabilities: shape (m,), float32, that the model would give this answer; NaN where there is none.
        rounds: shape (m,), int64, the round that predicted it; -1 where there is none.
    """

    classes: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    rounds: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Some rows of a cache.

    Attributes:
        ids: m strings or 64-bit integers.
        stored: m outputs of the cache's kind, or distributions as the cache stores them.
        labels: shape (m,), int64; -1 where there is none.
        models: shape (m,), int64, positions in `Metadata.models`.
        rounds: shape (m,), int64, round of the last refresh.
        scores: shape (m,), float32, score at the last refresh; NaN for rows never refreshed.
        inputs: shape (m,), fingerprints of the samples that the outputs were computed from, 0 where none is
            known; None where the cache keeps none.
        imputations: predicted answers; None where the cache has never been asked for any.
    """

    ids: pa.Array
    stored: Outputs | Encoded
    labels: npt.NDArray[np.int64]
    models: npt.NDArray[np.int64]
    rounds: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    inputs: npt.NDArray[np.uint64] | None = None
    imputations: Imputations | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def outputs(self) -> Outputs:
        """The m outputs; decoded when first asked for."""
        return self.stored.decode() if isinstance(self.stored, Encoded) else self.stored

    @property
    def encoded(self) -> Encoded:
        """The distributions as they are stored; for caches of distributions."""
        return encoded(self.stored)

    @property
    def probs(self) -> npt.NDArray[np.float32]:
        """The outputs of a cache of distributions: shape (m, C), float32, rows summing to 1."""
        probs: npt.NDArray[np.float32] = self.outputs
        return probs

    @property
    def imputed(self) -> npt.NDArray[np.bool_]:
        """Whether the answer of a row is predicted: shape (m,)."""
        if self.imputations is None:
            return np.zeros(len(self), dtype=bool)
        return self.imputations.classes >= 0

    @property
    def answers(self) -> npt.NDArray[np.int64]:
        """The classes that a cache of distributions answers, shape (m,): predicted ones where they are."""
        stored = self.stored
        own = stored.classes() if isinstance(stored, Encoded) else stored.argmax(axis=1)
        if self.imputations is None:
            return own.astype(np.int64)
        return np.where(self.imputed, self.imputations.classes, own).astype(np.int64)


def never_refreshed(
    ids: pa.Array,
    outputs: Outputs,
    labels: npt.NDArray[np.int64] | None,
    model: int,
    round_: int,
    inputs: npt.NDArray[np.uint64] | None = None,
) -> Rows:
    """Return rows that a model wrote in a round for the first time."""
    m = len(ids)
    return Rows(
        ids=ids,
        stored=outputs,
        labels=np.full(m, NO_LABEL, np.int64) if labels is None else labels,
        models=np.full(m, model, np.int64),
        rounds=np.full(m, round_, np.int64),
        scores=np.full(m, np.nan, np.float32),
        inputs=inputs,
    )


IMPUTED = {
    "imputed": pa.int32(),
    "imputed_probability": pa.float32(),
    "imputed_round": pa.int32(),
}
"""Columns of predicted answers; null where a row has none."""


def schema_of(id_type: pa.DataType, layout: Layout, inputs: bool = False, imputed: bool = False) -> pa.Schema:
    """Return the columns of a cache, with or without fingerprints of the samples and predicted answers."""
    return pa.schema(
        [
            pa.field("id", id_type, nullable=False),
            *layout.fields,
            pa.field("label", pa.int32()),
            pa.field("model", pa.int16(), nullable=False),
            pa.field("round", pa.int32(), nullable=False),
            pa.field("score", pa.float32()),
            *([pa.field("input", pa.uint64())] if inputs else []),
            *(pa.field(name, kind) for name, kind in IMPUTED.items() if imputed),
        ]
    )


def to_batch(schema: pa.Schema, rows: Rows, layout: Layout) -> pa.RecordBatch:
    """Encode rows into the columns of a cache."""
    inputs = np.zeros(len(rows), np.uint64) if rows.inputs is None else rows.inputs
    return pa.record_batch(
        [
            rows.ids,
            *layout.to_columns(rows.outputs),
            pa.array(rows.labels.astype(np.int32), mask=rows.labels == NO_LABEL),
            pa.array(rows.models.astype(np.int16)),
            pa.array(rows.rounds.astype(np.int32)),
            pa.array(rows.scores, mask=np.isnan(rows.scores)),
            *([pa.array(inputs, mask=inputs == 0)] if "input" in schema.names else []),
            *(_imputed_columns(rows) if "imputed" in schema.names else []),
        ],
        schema=schema,
    )


def _imputed_columns(rows: Rows) -> list[pa.Array]:
    if rows.imputations is None:
        return [pa.nulls(len(rows), kind) for kind in IMPUTED.values()]
    given, none = rows.imputations, ~rows.imputed
    return [
        pa.array(given.classes.astype(np.int32), mask=none),
        pa.array(given.probabilities, mask=none),
        pa.array(given.rounds.astype(np.int32), mask=none),
    ]


def from_batch(batch: pa.RecordBatch, layout: Layout, compiled: bool = False) -> Rows:
    """Read rows from the columns of a cache; for `compiled` see `Encoded`."""

    def numbers(name: str, missing: float, kind: type[Any]) -> npt.NDArray[Any]:
        column = pc.fill_null(batch.column(name), missing)
        values: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False).astype(kind)
        return values

    return Rows(
        ids=batch.column("id"),
        stored=layout.from_columns(batch, compiled),
        labels=numbers("label", NO_LABEL, np.int64),
        models=numbers("model", 0, np.int64),
        rounds=numbers("round", 0, np.int64),
        scores=numbers("score", float("nan"), np.float32),
        inputs=numbers("input", 0, np.uint64) if "input" in batch.schema.names else None,
        imputations=Imputations(
            numbers("imputed", -1, np.int64),
            numbers("imputed_probability", float("nan"), np.float32),
            numbers("imputed_round", -1, np.int64),
        )
        if "imputed" in batch.schema.names
        else None,
    )


def from_table(table: pa.Table, layout: Layout, compiled: bool = False) -> Rows:
    """Read rows from a table of one chunk."""
    batches = table.to_batches()
    empty = pa.RecordBatch.from_pylist([], schema=table.schema)
    return from_batch(batches[0] if batches else empty, layout, compiled)
