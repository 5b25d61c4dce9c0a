"""What a cache holds, in numbers."""

from typing import Any

import numpy as np

from sparing.cache.store import Cache


def summarise(cache: Cache) -> dict[str, Any]:
    """Count what a cache holds, in one pass over its rows.

    Returns:
        JSON values: path, rows, classes, class_names, encoding, id_type, round, version, versions, models
        (name, digest, cost, unit, rows), bytes, row_bytes (see `Cache.row_bytes`), labelled, accuracy (None
        without labels) and unfinished (what is staged, or None).
    """
    metadata = cache.metadata
    counts = np.zeros(len(metadata.models), dtype=np.int64)
    labelled = right = rows = 0
    for part in cache.scan():
        rows += len(part)
        counts += np.bincount(part.models, minlength=len(counts))
        known = part.labels >= 0
        labelled += int(known.sum())
        right += int((part.encoded.classes() == part.labels)[known].sum())
    staged = cache.unfinished_round()
    return {
        "path": str(cache.path),
        "rows": rows,
        "classes": metadata.n_classes,
        "class_names": None if metadata.classes is None else list(metadata.classes),
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
        "labelled": labelled,
        "accuracy": right / labelled if labelled else None,
        "unfinished": None if staged is None else staged["what"],
    }
