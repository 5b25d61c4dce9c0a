"""Making a cache from outputs that were computed elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparing.cache.metadata import ModelInfo
from sparing.cache.store import Cache
from sparing.data.tables import iter_outputs
from sparing.errors import CacheError, InputError
from sparing.outputs import OutputKind
from sparing.outputs.classes import check_names


def import_outputs(
    path: str | Path,
    source: Any,
    model: str,
    *,
    digest: str | None = None,
    cost: float | None = None,
    unit: str = "seconds",
    kind: OutputKind | None = None,
    encoding: str | None = None,
    classes: Sequence[str] | None = None,
) -> Cache:
    """Make a cache from a model's outputs: round 0.

    Args:
        path: a folder that does not exist yet.
        source: an output table: a Parquet path, an Arrow table or stream, or (ids, probs[, labels]) arrays.
        model: name of the model that made the outputs.
        digest: what that model is; its name by default.
        cost: what one of its forwards costs, in `unit`.
        unit: of the cost.
        kind: what the outputs are; distributions over classes by default.
        encoding: how distributions are stored; see `sparing.cache.encodings`.
        classes: the class names, in label order.

    Returns:
        The cache.

    Raises:
        CacheError: something is at the path already, or writing failed.
        InputError: the table cannot be used: NaN, logits, duplicate ids, no rows; see `iter_outputs`. Or an
            unknown encoding.
    """
    if cost is not None and not (cost == 0 or 1e-18 <= cost <= 1e18):
        raise InputError(f"model {model!r}: the cost must be 0 or 1e-18 to 1e18, got {cost}")
    if Path(path).exists():
        raise CacheError(f"{path} exists already: choose another path, or delete it first")
    if classes is not None:
        check_names(classes, "classes")
    info = ModelInfo(model, digest or f"name:{model}", cost, unit)
    chunks = ((part.ids, part.outputs, part.labels) for part in iter_outputs(source, kind=kind))
    return Cache.create(path, chunks, info, kind=kind, encoding=encoding, classes=classes)
