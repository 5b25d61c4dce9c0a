"""A model whose outputs were computed elsewhere: an output table, looked up by id."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.data.tables import iter_outputs, open_parquet
from sparing.errors import InputError
from sparing.ids import IdIndex, as_ids
from sparing.models.model import Model
from sparing.outputs import OutputKind, Outputs

_BATCH = 8192


def load_replay(
    path: str | Path,
    *,
    name: str,
    cost: float | None = None,
    unit: str = "seconds",
    batch_size: int = _BATCH,
    kind: OutputKind | None = None,
) -> Model:
    """Make a model of an output table; its outputs are held in memory, as precisely as they are stored.

    Args:
        path: a Parquet file with the columns `id` and `probs`, or those of the kind.
        name: what the model is called.
        cost: what one forward of the real model costs, in `unit`; None counts the seconds of the look-up.
        unit: what `cost` counts.
        batch_size: ids looked up at a time.
        kind: what the outputs are, for other kinds than distributions.

    Returns:
        A model that needs no samples.

    Raises:
        InputError: the table is bad; see `sparing.data.tables.iter_outputs`.
    """
    table, ids = _read(path) if kind is None else _read_kind(path, kind)
    index = IdIndex(ids, what=str(path))
    del ids

    def look_up(wanted: list[object], _: list[Any]) -> Outputs:
        positions = index.positions(as_ids(wanted, what=f"model {name!r}"))
        missing = positions < 0
        if missing.any():
            raise InputError(
                f"{path} has no outputs for id {wanted[int(missing.argmax())]!r} "
                f"({int(missing.sum())} of {len(wanted)} in this batch)"
            )
        return table[positions]

    with Path(path).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Model(
        name=name,
        digest=f"sha256:{digest}",
        function=look_up,
        cost=cost,
        unit=unit,
        batch_size=batch_size,
        needs_samples=False,
        kind=kind,
    )


def _read(path: str | Path) -> tuple[npt.NDArray[Any], pa.Array]:
    file = open_parquet(path)
    matrix: npt.NDArray[Any] | None = None
    ids = []
    done = 0
    for chunk in iter_outputs(path):
        if matrix is None:
            values = file.schema_arrow.field("probs").type.value_type
            dtype = np.float16 if pa.types.is_float16(values) else np.float32
            matrix = np.empty((file.metadata.num_rows, chunk.probs.shape[1]), dtype=dtype)
        matrix[done : done + len(chunk)] = chunk.probs
        done += len(chunk)
        ids.append(chunk.ids)
    table = matrix if matrix is not None else np.empty((0, 0), dtype=np.float32)
    return table, pa.concat_arrays(ids)


def _read_kind(path: str | Path, kind: OutputKind) -> tuple[Outputs, pa.Array]:
    chunks = list(iter_outputs(path, kind=kind))
    return kind.join([chunk.outputs for chunk in chunks]), pa.concat_arrays([chunk.ids for chunk in chunks])
