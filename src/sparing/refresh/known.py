"""Outputs that `fit` has paid for on the cache's own samples: the next round gets them free."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.cache import Cache
from sparing.cache.durable import replacing
from sparing.cache.transactions import writing
from sparing.models import Model
from sparing.refresh.staging import read_arrow, write_arrow


@dataclass(frozen=True)
class Known:
    """One model's outputs for some rows of a cache.

    Attributes:
        ids: m ids.
        probs: shape (m, C), float32.
        seconds: wall seconds that computing them took.
    """

    ids: pa.Array
    probs: npt.NDArray[np.float32]
    seconds: float


def _path(cache: Cache, model: Model) -> Path:
    key = hashlib.sha256(f"{model.name}\n{model.digest}".encode()).hexdigest()[:16]
    return cache.work_dir / f"known-{key}.arrow"


def keep_known(cache: Cache, model: Model, known: Known) -> None:
    """Keep a model's outputs until a round with that model uses them."""
    notes = json.dumps({"seconds": known.seconds, "rounds": _rounds_with(cache, model)})
    column = pa.FixedSizeListArray.from_arrays(pa.array(known.probs.ravel()), known.probs.shape[1])
    table = pa.table({"id": known.ids, "probs": column}).replace_schema_metadata({"known": notes})
    path = _path(cache, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path), replacing(path) as draft:
        write_arrow(draft, table)


def load_known(cache: Cache, model: Model) -> Known | None:
    """Give what `keep_known` kept, unless a round with that model has been committed since."""
    path = _path(cache, model)
    if not path.exists():
        return None
    table = read_arrow(path)
    notes = json.loads(table.schema.metadata[b"known"])
    if notes["rounds"] != _rounds_with(cache, model):
        return None
    column = table["probs"].combine_chunks()
    probs = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    return Known(table["id"].combine_chunks(), probs, notes["seconds"])


def drop_known(cache: Cache, model: Model) -> None:
    """Forget a model's outputs once a round has stored them."""
    _path(cache, model).unlink(missing_ok=True)


def _rounds_with(cache: Cache, model: Model) -> int:
    """Count the rounds that used a model: what fit computed is used once, even if a kill leaves the file."""
    return sum(
        1
        for entry in cache.metadata.history
        if entry["op"] == "refresh" and model.digest in entry["digests"].values()
    )
