"""What a cache holds, in numbers."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.cache.rows import Rows
from sparing.cache.store import Cache
from sparing.outputs import Classes, OutputKind


def summarise(cache: Cache) -> dict[str, Any]:
    """Count what a cache holds, in one pass over its rows.

    Returns:
        JSON values: path, rows, kind, classes and class_names (None for other kinds than classes), encoding,
        id_type, round, version, versions, models (name, digest, cost, unit, rows), bytes, row_bytes (see
        `Cache.row_bytes`), imputed (rows whose answer is predicted), labelled, accuracy (None without
        labels) and unfinished (what is staged, or None).
    """
    metadata = cache.metadata
    classes = cache.kind.spec() if isinstance(cache.kind, Classes) else {}
    counts = np.zeros(len(metadata.models), dtype=np.int64)
    labelled = right = rows = imputed = 0
    for part in cache.scan():
        rows += len(part)
        counts += np.bincount(part.models, minlength=len(counts))
        labelled += int((part.labels >= 0).sum())
        imputed += int(part.imputed.sum())
        right += int(_right(cache.kind, part).sum())
    staged = cache.unfinished_round()
    return {
        "path": str(cache.path),
        "rows": rows,
        "kind": cache.kind.name,
        "classes": classes.get("n_classes"),
        "class_names": classes.get("classes"),
        "encoding": metadata.encoding,
        "id_type": str(cache.id_type),
        "round": metadata.round,
        "version": cache.version,
        "versions": len(cache.versions()),
        "models": [
            {"name": m.name, "digest": m.digest, "cost": m.cost, "unit": m.unit, "rows": int(n)}
            for m, n in zip(metadata.models, counts, strict=True)
        ],
        "bytes": cache.disk_bytes(),
        "row_bytes": cache.row_bytes(),
        "imputed": imputed,
        "labelled": labelled,
        "accuracy": right / labelled if labelled else None,
        "unfinished": None if staged is None else staged["what"],
    }


def _right(kind: OutputKind, rows: Rows) -> npt.NDArray[np.bool_]:
    if isinstance(kind, Classes):  # the class is read without decoding
        right: npt.NDArray[np.bool_] = (rows.answers == rows.labels) & (rows.labels >= 0)
        return right
    return kind.correct(rows.outputs, rows.labels)
