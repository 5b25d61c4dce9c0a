"""Outputs that `fit` has paid for on a cache's own samples: the next round with that model gets them free.

They lie beside the versions, one file per model, until a round with that model has stored them.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from sparing.cache.metadata import Metadata
from sparing.errors import CacheError
from sparing.outputs import Classes, OutputKind, Outputs
from sparing.storage.arrow import read_noted, write_arrow
from sparing.storage.files import make_folder, replacing

INPUTS = "_inputs"
"""The column that says what outputs were computed from."""


@dataclass(frozen=True)
class Known:
    """One model's outputs for some rows of a cache.

    Attributes:
        ids: m ids.
        outputs: m outputs of the cache's kind.
        seconds: wall seconds that computing them took.
        wasted: at most how many forwards were computed twice, because a kill came in between.
        inputs: shape (m,), digests of the samples that they were computed from, 0 where none was needed; None
            in files of releases that did not note them.
    """

    ids: pa.Array
    outputs: Outputs
    seconds: float
    wasted: int = 0
    inputs: npt.NDArray[np.uint64] | None = None

    def without(self, ids: pa.Array) -> "Known":
        """Leave out some ids; what they cost stays spent."""
        return self.take(pc.invert(pc.is_in(self.ids, value_set=ids)).to_numpy(False))

    def take(self, kept: npt.NDArray[np.bool_]) -> "Known":
        """Keep some rows, by a mask; what the others cost stays spent."""
        at = np.flatnonzero(kept)
        inputs = None if self.inputs is None else self.inputs[at]
        return replace(self, ids=self.ids.take(pa.array(at)), outputs=self.outputs[at], inputs=inputs)

    def merged(self, newer: "Known", kind: OutputKind) -> "Known":
        """Add newer outputs; they win where both have an id."""
        older = self.without(newer.ids)
        unknown = older.inputs is None or newer.inputs is None
        return Known(
            pa.concat_arrays([older.ids, newer.ids]),
            kind.join([older.outputs, newer.outputs]),
            older.seconds + newer.seconds,
            older.wasted + newer.wasted,
            None if unknown else np.concatenate([older.inputs, newer.inputs]),
        )


def keep_known(work_dir: Path, metadata: Metadata, name: str, digest: str, known: Known) -> None:
    """Keep a model's outputs, beside those kept before, until a round with that model uses them.

    Args:
        work_dir: the cache's folder for what is in no version.
        metadata: the cache's, which says how many rounds the model has had.
        name: the model's name.
        digest: the model's digest.
        known: its outputs.
    """
    before = load_known(work_dir, metadata, name, digest)
    if before is not None:
        known = before.merged(known, metadata.kind)
    _write(_path(work_dir, name, digest), known, metadata.kind, _rounds_with(metadata, digest))


def load_known(work_dir: Path, metadata: Metadata, name: str, digest: str) -> Known | None:
    """Return what `keep_known` kept, unless a round with that model has been committed since."""
    path = _path(work_dir, name, digest)
    if not path.exists():
        return None
    known, rounds = _read(path, metadata.kind)
    return known if rounds == _rounds_with(metadata, digest) else None


def drop_known(work_dir: Path, name: str, digest: str) -> None:
    """Forget a model's outputs once a round has stored them."""
    _path(work_dir, name, digest).unlink(missing_ok=True)


def forget_ids(work_dir: Path, metadata: Metadata, ids: pa.Array) -> None:
    """Forget what is known of some rows: an id that comes back may be another sample."""
    for path in work_dir.glob("known-*.arrow"):
        known, rounds = _read(path, metadata.kind)
        if pc.any(pc.is_in(known.ids, value_set=ids)).as_py():
            _write(path, known.without(ids), metadata.kind, rounds)


class _Notes(Struct, frozen=True):
    seconds: float
    wasted: int
    rounds: int


def _write(path: Path, known: Known, kind: OutputKind, rounds: int) -> None:
    notes = {"seconds": known.seconds, "wasted": known.wasted, "rounds": rounds}
    inputs = {} if known.inputs is None else {INPUTS: known.inputs}
    if isinstance(kind, Classes):
        kind = Classes.of(known.outputs)  # a rollback may have left the cache with fewer classes
    table = pa.table({"id": known.ids, **kind.to_columns(known.outputs), **inputs})
    make_folder(path.parent, CacheError)
    with replacing(path, CacheError) as draft:
        write_arrow(draft, table.replace_schema_metadata({"known": json.dumps(notes)}))


def _read(path: Path, kind: OutputKind) -> tuple[Known, int]:
    table, notes = read_noted(path, "known", _Notes, CacheError)
    ids = table["id"].combine_chunks()
    inputs = table[INPUTS].to_numpy() if INPUTS in table.column_names else None
    if isinstance(kind, Classes):
        own = Classes(table.schema.field("probs").type.list_size)
        outputs = own.from_columns(table)
        outputs = kind.padded(outputs) if own.n_classes < kind.n_classes else outputs
    else:
        outputs = kind.from_columns(table)
    return Known(ids, outputs, notes.seconds, notes.wasted, inputs), notes.rounds


def _path(work_dir: Path, name: str, digest: str) -> Path:
    key = hashlib.sha256(f"{name}\n{digest}".encode()).hexdigest()[:16]
    return work_dir / f"known-{key}.arrow"


def _rounds_with(metadata: Metadata, digest: str) -> int:
    """Count the rounds that used a model: what fit computed is used once, even if a kill leaves the file."""
    return sum(e["op"] == "refresh" and digest in e["digests"].values() for e in metadata.history)
