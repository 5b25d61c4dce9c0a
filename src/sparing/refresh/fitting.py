"""Fitting a ranker: from a few rows, or from outputs that are known, which others a new model changes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.cache import Cache
from sparing.cache.known import Known, keep_known
from sparing.cache.metadata import CHANGED
from sparing.data.samples import Samples, open_samples
from sparing.data.tables import read_outputs
from sparing.errors import CacheError, InputError, ModelError
from sparing.models import Model
from sparing.numerics.selection import Items, find_cut, tie_keys
from sparing.outputs import Classes
from sparing.progress import OnProgress
from sparing.refresh.class_lists import joined_classes, needs_names
from sparing.refresh.failures import FailureLimit, OnFailures, Tally, tell_failures
from sparing.refresh.recorded import as_recorded
from sparing.refresh.records import FitRecord
from sparing.refresh.round import known_of
from sparing.refresh.running import chunk_rows_for, drop_changed, find_samples, run_order
from sparing.refresh.scoring.ranker import Ranker, fit_ranker
from sparing.refresh.scoring.router import InputForm
from sparing.refresh.scoring.scorer import Answers, Pairs, ScoringRows
from sparing.refresh.staging import Staging

Floats = npt.NDArray[np.float32]


def fit(
    path: str | Path,
    candidates: Sequence[Model],
    *,
    samples: Any = None,
    rows: int = 500,
    form: InputForm = "sorted",
    hidden: Sequence[int] = (64,),
    epochs: int = 30,
    holdout: float = 0.2,
    seed: int = 0,
    max_failures: int | str | None = None,
    on_progress: OnProgress | None = None,
    on_failures: OnFailures | None = None,
) -> Ranker:
    """Run candidates on some rows of a cache and fit a ranker to what they changed (PURE, 3.2).

    The rows are drawn at random by a seeded hash of their ids. What is computed is kept: the next round with
    these candidates stores it without running it again, and counts it in its account and its budget. A kill
    loses at most one chunk: the same call continues.

    Args:
        path: the cache.
        candidates: the models to learn about.
        samples: where the sample values are; see `refresh`.
        rows: how many rows to run each candidate on; they count in the next budget, and 500 of 10,000 rows
            are a tenth of a budget of 50 %.
        form: what the ranker reads; see `train_ranker`.
        hidden: sizes of the hidden layers.
        epochs: passes over the rows.
        holdout: share of the rows on which a first ranker is judged, so that `refresh` can predict
            consistency; the ranker returned is fitted on all rows.
        seed: fixes the rows, the split and the fit.
        max_failures: how many rows may fail; see `RefreshOptions`.
        on_progress: called after every chunk.
        on_failures: called at the end if rows failed, with columns id, model and reason; the ranker is fitted
            without them. A warning by default.

    Returns:
        The ranker.

    Raises:
        InputError: too few rows, samples missing, or models whose classes differ from the cache's.
        ModelError: candidates failed on too many rows, or on all; what was computed is kept.
        CacheError: not a cache, another process writes to it, or a full disk.
    """
    if not candidates:
        raise InputError("there is no candidate to fit a ranker for")
    with Cache.open(path).lock():
        cache = Cache.open(path)
        if cache.unfinished_round() is not None:
            raise CacheError(
                "an unfinished round is staged in this cache: "
                "finish or discard it with `sparing refresh` first"
            )
        values = None if samples is None else open_samples(samples)
        staging = Staging(cache.work_dir / "fit")
        staged = staging.record(FitRecord)
        candidates = as_recorded(candidates, cache, [] if staged is None else staged.digests)
        names, candidates = joined_classes(cache, candidates)
        if names is not None and needs_names(cache, names):
            cache.name_classes(names)
        drawn = _draw(cache, candidates, rows, seed)
        wanted = FitRecord(
            chunk_rows=0,
            names=[model.name for model in candidates],
            digests=[model.digest for model in candidates],
            rows=rows,
            seed=seed,
            version=cache.version,
            samples=None if values is None else values.identity,
        )
        if staged is not None and values is not None and not values.known_as(staged.samples):
            drop_changed(staging, values)
            staged = msgspec.structs.replace(staged, samples=wanted.samples)
        if staged is not None and msgspec.structs.replace(staged, chunk_rows=0) != wanted:
            # Another fit was interrupted here: what it has paid for is kept.
            _keep(cache, staging, staged)
            staged = None
        if staged is None:
            order = _order(drawn, [known_of(cache, model, values) for model in candidates])
            find_samples(order, candidates, values)
            staged = msgspec.structs.replace(
                wanted, chunk_rows=chunk_rows_for(order.num_rows, candidates, cache.metadata.kind)
            )
            staging.begin(staged, order)
        staging.retry()
        run_order(
            staging,
            candidates,
            values,
            chunk_rows=staged.chunk_rows,
            kind=cache.metadata.kind,
            tally=Tally(FailureLimit.parse(max_failures), done=staging.rows_done()),
            on_progress=on_progress,
        )
        failed = staging.failures([model.name for model in candidates])
        _keep(cache, staging, staged)
        known = [_known(cache, model, values) for model in candidates]
        for item in known:  # rows that failed are left out
            drawn = drawn.filter(pc.is_in(drawn, value_set=item.ids))
        old = cache.get(drawn)
        after = [item.outputs[_match(item.ids, old.ids)] for item in known]
        holders = [model.name for model in cache.metadata.models]
        ranker = fit_ranker(
            _pairs(old.probs, after, old.labels, holders=holders, held=old.models),
            [model.name for model in candidates],
            [model.digest for model in candidates],
            form=form,
            hidden=hidden,
            epochs=epochs,
            holdout=holdout,
            seed=seed,
        )
    timed = tuple(
        replace(candidate, seconds=item.seconds / len(item.ids))
        for candidate, item in zip(ranker.candidates, known, strict=True)
    )
    tell_failures(failed, on_failures)
    return replace(ranker, candidates=timed)


def _known(cache: Cache, model: Model, samples: Samples | None) -> Known:
    known = known_of(cache, model, samples)
    if known is None or not len(known.ids):
        raise ModelError(f"model {model.name!r} failed on every row: there is nothing to fit a ranker to")
    return known


def fit_outputs(
    old: Any,
    new: Sequence[Any],
    names: Sequence[str],
    *,
    form: InputForm = "sorted",
    hidden: Sequence[int] = (64,),
    epochs: int = 30,
    holdout: float = 0.2,
    seed: int = 0,
) -> Ranker:
    """Fit a ranker on pairs of outputs that are known from elsewhere: nothing is run.

    Args:
        old: the cached model's outputs: an output table (see `read_outputs`) or an open `Cache`.
        new: n output tables, one per candidate; rows are matched by id, others are ignored.
        names: n names, as `refresh` will be given them.
        form: what the ranker reads; see `train_ranker`.
        hidden: sizes of the hidden layers.
        epochs: passes over the rows.
        holdout: share of the rows kept back to judge the ranker; see `fit`.
        seed: fixes the split and the fit.

    Returns:
        The ranker.

    Raises:
        InputError: no common ids, or classes that differ.
    """
    tables = [read_outputs(source) for source in new]
    if not tables:
        raise InputError("there is no candidate to fit a ranker for")
    common = tables[0].ids
    for table in tables[1:]:
        common = common.filter(pc.is_in(common, value_set=table.ids))
    if isinstance(old, Cache):
        rows = old.get(common)
        ids, before, labels = rows.ids, rows.probs, rows.labels
        holders, held = [model.name for model in old.metadata.models], rows.models
    else:
        table = read_outputs(old)
        if table.ids.type != common.type:
            raise InputError(f"the old outputs have ids of type {table.ids.type}, the new {common.type}")
        kept = pc.is_in(table.ids, value_set=common).to_numpy(zero_copy_only=False)
        ids, before = table.ids.filter(pa.array(kept)), table.probs[kept]
        labels = np.full(len(ids), -1, np.int64) if table.labels is None else table.labels[kept]
        holders, held = ["cached"], np.zeros(len(ids), np.int64)
    if len(ids) < 2:
        raise InputError("the old and the new outputs share no ids: rows are matched by id")
    after = [table.probs[_match(table.ids, ids)] for table in tables]
    return fit_ranker(
        _pairs(before, after, labels, holders=holders, held=held),
        names,
        [None] * len(names),
        form=form,
        hidden=hidden,
        epochs=epochs,
        holdout=holdout,
        seed=seed,
    )


def _pairs(
    old: Floats,
    new: Sequence[Floats],
    labels: npt.NDArray[np.int64],
    *,
    holders: Sequence[str],
    held: npt.NDArray[np.int64],
) -> Pairs:
    rows = ScoringRows(
        outputs=old,
        ties=np.zeros(len(old), dtype=np.uint64),
        candidates=len(new),
        target=len(new) - 1,
        holders=holders,
        held=held,
    )
    return Pairs(rows, Answers(new, labels))


def _draw(cache: Cache, candidates: Sequence[Model], rows: int, seed: int) -> pa.Array:
    """Draw rows that no candidate wrote, by hash of the id: the rows of a smaller draw are among them."""
    if rows < 2:
        raise InputError(f"a ranker cannot be fitted on {rows} rows: give it a few hundred at least")
    # Those of a sample that has changed do not show what the new model changes.
    names = [CHANGED, *(model.name for model in candidates)]
    own = [index for name in names for index in cache.metadata.holding(name)]
    for model in candidates:
        cache.metadata.check_model(model.name, model.classes, model.kind)
        index = cache.metadata.model_index(model.name)
        if index is not None and cache.metadata.models[index].digest != model.digest:
            raise CacheError(
                f"the cache holds rows of another model named {model.name!r}: give this one another name"
            )

    # Each round draws other rows: those drawn before were refreshed in every round, unlike the rest.
    salt = seed + 7919 * cache.metadata.round

    def chunks() -> Any:
        for part in cache.scan():
            free = ~np.isin(part.models, own)
            ties = tie_keys(part.ids, salt + 1)[free]
            yield part, free, Items(np.zeros(len(ties)), ties, tie_keys(part.ids, salt + 2)[free])

    cut = find_cut(lambda: (items for _, _, items in chunks()), rows)
    drawn = []
    for part, free, items in chunks():
        taken = np.ones(len(items.ties), dtype=bool) if cut is None else cut.takes(items)
        drawn.append(part.ids.take(pa.array(np.flatnonzero(free)[taken])))
    ids = pa.concat_arrays(drawn) if drawn else pa.array([], cache.id_type)
    if len(ids) < 2:
        raise InputError(
            f"the cache has {len(cache)} rows, of which {len(ids)} are not {candidates[0].name!r}'s own: "
            "too few to fit a ranker"
        )
    return ids


def _order(drawn: pa.Array, known: Sequence[Known | None]) -> pa.Table:
    """List every drawn row once per candidate that has not been run on it."""
    ids, candidate = [], []
    for index, item in enumerate(known):
        left = drawn if item is None else drawn.filter(pc.invert(pc.is_in(drawn, value_set=item.ids)))
        ids.append(left)
        candidate.append(np.full(len(left), index, dtype=np.int16))
    return pa.table({"id": pa.concat_arrays(ids), "candidate": np.concatenate(candidate)})


def _keep(cache: Cache, staging: Staging, staged: FitRecord) -> None:
    """Move what is staged to where the next round finds it."""
    order = staging.order()
    ids, candidate = order["id"].combine_chunks(), order["candidate"].to_numpy()
    chunks = list(staging.chunks())
    rows = np.concatenate([np.zeros(0, np.int64), *(c.start + np.arange(len(c)) for c in chunks)])
    for index, (name, digest) in enumerate(zip(staged.names, staged.digests, strict=True)):
        mine = candidate[rows] == index
        kind = cache.metadata.kind
        parts = [chunk.outputs for chunk in chunks]
        if isinstance(kind, Classes):
            parts = [kind.padded(part) for part in parts]
        outputs = kind.join(parts)[mine]
        seconds = sum(chunk.seconds.get(f"model:{name}", 0.0) for chunk in chunks)
        # A chunk that was begun again may have been run in part before: counted for its first candidate.
        lost = {**{c.start: c.wasted for c in chunks}, **staging.interrupted()}
        lost.update({part.rows[0]: part.wasted for part in staging.failed()})
        wasted = sum(count for at, count in lost.items() if candidate[at] == index)
        if not mine.any() and not wasted:
            continue
        inputs = [chunk.inputs for chunk in chunks if chunk.inputs is not None]
        empty = np.zeros(0, np.uint64)
        noted = np.concatenate([empty, *inputs])[mine] if len(inputs) == len(chunks) else None
        known = Known(ids.take(pa.array(rows[mine])), outputs, seconds, wasted, noted)
        keep_known(cache.work_dir, cache.metadata, name, digest, known)
    staging.clear()


def _match(there: pa.Array, wanted: pa.Array) -> npt.NDArray[np.int64]:
    positions: npt.NDArray[np.int64] = pc.index_in(wanted, value_set=there).to_numpy().astype(np.int64)
    return positions
