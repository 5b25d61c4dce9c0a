"""What changes a cache without a model: going back to a round, another encoding, fewer files.

Each takes the version in view and returns the one that it made. The caller holds the lock and has made sure
that no round is staged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import lance
import lance.optimize
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lance.dataset import Transaction

from sparing.cache import checking, transactions
from sparing.cache.layout import Layout
from sparing.cache.record import History
from sparing.cache.rows import schema_of, to_batch
from sparing.cache.view import View
from sparing.errors import CacheError, InputError
from sparing.outputs import Classes
from sparing.storage import files


def roll_back(view: View, round_: int) -> View:
    """Go back to how the cache stood at the end of an earlier round; see `Cache.rollback`."""
    kept = set(view.versions())
    history = view.metadata.history
    candidates = [e["version"] for e in history if e["round"] == round_ and e["version"] in kept]
    if not candidates:
        left = sorted({entry["round"] for entry in history if entry["version"] in kept})
        raise CacheError(f"round {round_} cannot be restored: versions are left of rounds {left}")
    old = View.open(view.path, max(candidates))
    known = files.files_below(view.path)
    record = {
        "op": "rollback",
        "from_round": view.metadata.round,
        "from_rows": view.rows,
        "rows": old.rows,
    }
    # Models and rankers only ever grow, and history is what happened: the round alone goes back.
    metadata = replace(
        view.metadata,
        round=old.metadata.round,
        kind=old.metadata.kind,
        encoding=old.metadata.encoding,
        fingerprint=old.metadata.fingerprint,
    )
    transaction = Transaction(view.version, lance.LanceOperation.Restore(old.version))
    with transactions.writing(view.path):
        return view.committed(transaction, record, known, metadata)


def convert(view: View, encoding: str) -> View:
    """Store all distributions in another encoding; see `Cache.convert`."""
    layout = Layout.of(view.metadata.kind, encoding)
    if encoding == view.metadata.encoding:
        raise InputError(f"{view.path} is encoded as {encoding} already")
    schema = _schema(view, layout)
    record = {"op": "convert", "from": view.metadata.encoding, "to": encoding}
    with transactions.writing(view.path):
        known = files.files_below(view.path)
        batches = (to_batch(schema, rows, layout) for rows in view.scan())
        transaction = transactions.new_fragments(batches, schema, view.dataset, "overwrite")
        return view.committed(transaction, record, known, replace(view.metadata, encoding=encoding))


def name_classes(view: View, names: Sequence[str], rename: Mapping[str, str]) -> View:
    """Name the classes, and add further ones; see `Cache.name_classes`."""
    kind = view.metadata.kind
    if not isinstance(kind, Classes):
        raise CacheError(f"{view.path} holds outputs of kind {kind.name!r}, which have no classes")
    metadata = view.metadata.with_classes(names, rename)
    wide, layout = Classes(len(names), tuple(names)), metadata.layout
    schema = _schema(view, layout)
    record = {"op": "classes", "from": kind.n_classes, "to": len(names), "rename": dict(rename)}
    with transactions.writing(view.path):
        known = files.files_below(view.path)
        batches = (
            to_batch(schema, replace(rows, stored=wide.padded(rows.probs)), layout) for rows in view.scan()
        )
        transaction = transactions.new_fragments(batches, schema, view.dataset, "overwrite")
        return view.committed(transaction, record, known, metadata)


def add_fingerprints(
    view: View, fingerprint: str, find: Callable[[pa.Array], npt.NDArray[np.uint64]]
) -> View:
    """Note the fingerprints of all samples, as they are now; see `Cache.add_fingerprints`."""
    layout = view.metadata.layout
    schema = _schema(view, layout, inputs=True)
    record = {"op": "fingerprint", "of": fingerprint}
    with transactions.writing(view.path):
        known = files.files_below(view.path)
        batches = (to_batch(schema, replace(rows, inputs=find(rows.ids)), layout) for rows in view.scan())
        transaction = transactions.new_fragments(batches, schema, view.dataset, "overwrite")
        return view.committed(transaction, record, known, replace(view.metadata, fingerprint=fingerprint))


def keep_imputed(view: View) -> View:
    """Give the rows room for predicted answers; see `Cache.keep_imputed`."""
    schema = schema_of(view.id_type, view.layout, view.metadata.fingerprint is not None, imputed=True)
    with transactions.writing(view.path):
        known = files.files_below(view.path)
        batches = (to_batch(schema, rows, view.layout) for rows in view.scan())
        transaction = transactions.new_fragments(batches, schema, view.dataset, "overwrite")
        return view.committed(transaction, {"op": "imputed"}, known, view.metadata)


def _schema(view: View, layout: Layout, inputs: bool = False) -> pa.Schema:
    """Return the columns of a cache whose outputs get another layout, or which gets fingerprints."""
    inputs = inputs or view.metadata.fingerprint is not None
    return schema_of(view.id_type, layout, inputs, view.keeps_imputed)


def compact(view: View, keep_rounds: int) -> View:
    """Rewrite the rows into few files and drop old versions; see `Cache.compact`."""
    if keep_rounds < 0:
        raise InputError(f"cannot keep {keep_rounds} rounds: give 0 or more")
    view.verify()  # what is rewritten gets a checksum of its own: damage would not be seen any more
    with transactions.writing(view.path):
        known = files.files_below(view.path)
        lance.optimize.Compaction.execute(view.dataset, {})
        view = replace(view, dataset=lance.dataset(files.local(view.path)))
        updates = lance.LanceOperation.UpdateMap({"sparing.compacted": transactions.now()})
        transaction = Transaction(view.version, lance.LanceOperation.UpdateConfig(config_updates=updates))
        view = view.committed(transaction, {"op": "compact", "kept_rounds": keep_rounds}, known)
        newest: dict[int, int] = {}
        for entry in view.metadata.history:
            newest[entry["round"]] = max(newest.get(entry["round"], 0), entry["version"])
        current = view.metadata.round
        needed = {v for r, v in newest.items() if current - keep_rounds <= r <= current}
        # The lock says that no other writer is at work, so unreferenced files are leftovers.
        view.dataset.cleanup_old_versions(
            older_than=timedelta(0),
            delete_unverified=True,
            versions=[v for v in view.versions() if v not in needed and v != view.version],
        )
        _drop_records(view)
        checking.forget_missing(view.path)
    return view


def _drop_records(view: View) -> None:
    """Remove the files of records that only versions used which are gone."""
    source = view.metadata.files
    if source is None:
        return
    needed: set[str] = set()
    for version in view.versions():
        history = View.open(view.path, version).metadata.history
        if isinstance(history, History):
            needed.update(history.files())
    source.keep_only(needed)
