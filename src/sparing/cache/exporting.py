"""Writing a cache out as a table that any tool reads."""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sparing.cache.rows import Rows
from sparing.cache.store import Cache
from sparing.data.tables import NO_LABEL
from sparing.errors import CacheError, InputError
from sparing.outputs import Classes, OutputKind
from sparing.storage.files import local, replacing


def export(cache: Cache, path: str | Path, *, only: Literal["run"] | None = None) -> int:
    """Write all rows, sorted by id, as a Parquet table.

    Its columns are id, those of the kind of output (for distributions, probs), label, model, round and score;
    for distributions also prediction, the name of the class that the row answers (its number where the cache
    knows no names), and source: "run" where that is the most probable class of probs, "imputed" where it is
    predicted, with imputed_probability and imputed_round once the cache has held such rows.

    Args:
        cache: the cache, at the version to write.
        path: the file to write; replaced at once when it exists.
        only: "run" leaves out rows whose answer is predicted.

    Returns:
        The number of rows written.

    Raises:
        InputError: the cache has no rows.
        CacheError: the file could not be written; whatever was at the path is still there.
    """
    path = Path(path)
    cache.verify()
    order = pc.sort_indices(cache.ids()).to_numpy()
    if len(order) == 0:
        raise InputError(f"{cache.path} has no rows to export")
    names = pa.array([model.name for model in cache.metadata.models])
    writer: pq.ParquetWriter | None = None
    written = 0
    with replacing(path, CacheError) as draft:
        try:
            for start in range(0, len(order), cache.chunk_rows):
                rows = cache.take(order[start : start + cache.chunk_rows])
                table = pa.table(
                    {
                        "id": rows.ids,
                        **_plain(cache.kind.to_columns(rows.outputs)),
                        "label": pa.array(rows.labels, mask=rows.labels == NO_LABEL),
                        "model": names.take(pa.array(rows.models)),
                        "round": rows.rounds,
                        "score": pa.array(rows.scores, mask=np.isnan(rows.scores)),
                        **_answers(cache.kind, rows),
                    }
                )
                if only == "run":
                    table = table.filter(pa.array(~rows.imputed))
                written += table.num_rows
                writer = writer or pq.ParquetWriter(local(draft), table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
    return written


def _answers(kind: OutputKind, rows: Rows) -> dict[str, pa.Array]:
    """Return what rows answer, by name, and where that is from."""
    if not isinstance(kind, Classes):
        return {}
    classes = pa.array(rows.answers)
    found = {
        "prediction": classes if kind.classes is None else pa.array(kind.classes).take(classes),
        "source": pa.array(np.where(rows.imputed, "imputed", "run").tolist(), pa.string()),
    }
    if rows.imputations is not None:
        given = rows.imputations
        found["imputed_probability"] = pa.array(given.probabilities, mask=~rows.imputed)
        found["imputed_round"] = pa.array(given.rounds, mask=~rows.imputed)
    return found


def _plain(columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """Return lists of a fixed size as lists, which more tools read."""
    fixed = pa.types.is_fixed_size_list
    return {
        name: column.cast(pa.list_(column.type.value_type)) if fixed(column.type) else column
        for name, column in columns.items()
    }
