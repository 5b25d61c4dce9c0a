"""Learning from a few thousand rows which others a new model will change."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.cache import Cache
from sparing.errors import CacheError, InputError
from sparing.models import Model
from sparing.refresh.evidence import gather_evidence
from sparing.refresh.known import Known, keep_known
from sparing.refresh.router import InputForm, Router, train_router
from sparing.refresh.running import OnProgress, chunk_rows_for, find_samples, run_order
from sparing.refresh.staging import Staging
from sparing.samples import open_samples
from sparing.selection import Items, find_cut, tie_keys
from sparing.tables import read_outputs

Floats = npt.NDArray[np.float32]


def fit(
    path: str | Path,
    candidates: Sequence[Model],
    *,
    samples: Any = None,
    rows: int = 5000,
    form: InputForm = "sorted",
    hidden: Sequence[int] = (64,),
    epochs: int = 30,
    holdout: float = 0.2,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Router:
    """Run candidates on some rows of a cache and fit a router to what they changed (PURE, 3.2).

    The rows are drawn at random by a seeded hash of their ids. What is computed is kept: the next round with
    these candidates stores it without running it again, and counts it in its account and its budget. A kill
    loses at most one chunk: the same call continues.

    Args:
        path: the cache.
        candidates: the models to learn about.
        samples: where the sample values are; see `refresh`.
        rows: how many rows to run each candidate on.
        form: what the router reads; see `train_router`.
        hidden: sizes of the hidden layers.
        epochs: passes over the rows.
        holdout: share of the rows on which a first router is judged, so that `refresh` can predict
            consistency; the router returned is fitted on all rows.
        seed: fixes the rows, the split and the fit.
        on_progress: called after every chunk.

    Returns:
        The router.

    Raises:
        InputError: too few rows, samples missing, or models whose classes differ from the cache's.
        ModelError: a candidate failed; what was computed is kept.
        CacheError: not a cache, another process writes to it, or a full disk.
    """
    if not candidates:
        raise InputError("there is no candidate to fit a router for")
    with Cache.open(path).lock():
        cache = Cache.open(path)
        if Staging(cache.work_dir / "round").request() is not None:
            raise CacheError(
                "an unfinished round is staged in this cache: "
                "finish or discard it with `sparing refresh` first"
            )
        order = _draw(cache, candidates, rows, seed)
        staging = Staging(cache.work_dir / "fit")
        request = {
            "models": {model.name: model.digest for model in candidates},
            "rows": rows,
            "seed": seed,
            "version": cache.version,
        }
        staged = staging.request()
        if staged is None or {key: staged[key] for key in request} != request:
            values = None if samples is None else open_samples(samples)
            find_samples(order, candidates, values)
            batch = max(model.batch_size for model in candidates)
            staged = {**request, "chunk_rows": chunk_rows_for(order.num_rows, batch)}
            staging.begin(staged, order)
        else:
            values = None if samples is None else open_samples(samples)
        run_order(staging, candidates, values, chunk_rows=staged["chunk_rows"], on_progress=on_progress)
        known = _collect(staging, candidates)
        old = cache.get(known[0].ids)
        router = _fit_pairs(
            old.probs,
            [_aligned(item, old.ids) for item in known],
            old.labels,
            candidates,
            form,
            hidden,
            epochs,
            holdout,
            seed,
        )
        for model, item in zip(candidates, known, strict=True):
            keep_known(cache, model, item)
        staging.clear()
    timed = tuple(
        replace(candidate, seconds=item.seconds / len(item.ids))
        for candidate, item in zip(router.candidates, known, strict=True)
    )
    return replace(router, candidates=timed)


def fit_outputs(
    old: Any,
    new: Sequence[Any],
    candidates: Sequence[tuple[str, str]],
    *,
    form: InputForm = "sorted",
    hidden: Sequence[int] = (64,),
    epochs: int = 30,
    holdout: float = 0.2,
    seed: int = 0,
) -> Router:
    """Fit a router on pairs of outputs that are known from elsewhere: nothing is run.

    Args:
        old: the cached model's outputs: an output table (see `read_outputs`) or an open `Cache`.
        new: n output tables, one per candidate; rows are matched by id, others are ignored.
        candidates: n pairs of name and digest.
        form: what the router reads; see `train_router`.
        hidden: sizes of the hidden layers.
        epochs: passes over the rows.
        holdout: share of the rows kept back to judge the router; see `fit`.
        seed: fixes the split and the fit.

    Returns:
        The router.

    Raises:
        InputError: no common ids, or classes that differ.
    """
    tables = [read_outputs(source) for source in new]
    if not tables:
        raise InputError("there is no candidate to fit a router for")
    common = tables[0].ids
    for table in tables[1:]:
        common = common.filter(pc.is_in(common, value_set=table.ids))
    if isinstance(old, Cache):
        rows = old.get(common)
        ids, before, labels = rows.ids, rows.probs, rows.labels
    else:
        table = read_outputs(old)
        kept = pc.is_in(table.ids, value_set=common).to_numpy(zero_copy_only=False)
        ids, before = table.ids.filter(pa.array(kept)), table.probs[kept]
        labels = np.full(len(ids), -1, np.int64) if table.labels is None else table.labels[kept]
    if len(ids) < 2:
        raise InputError("the old and the new outputs share no ids: rows are matched by id")
    after = [table.probs[_match(table.ids, ids)] for table in tables]
    names = [Model(name, digest, _never_run) for name, digest in candidates]
    return _fit_pairs(before, after, labels, names, form, hidden, epochs, holdout, seed)


def _never_run(_ids: list[object], _values: list[Any]) -> Any:
    raise AssertionError("outputs are known: nothing is run")


def _draw(cache: Cache, candidates: Sequence[Model], rows: int, seed: int) -> pa.Table:
    """Draw rows that no candidate wrote, by hash of the id, and list each once per candidate."""
    if rows < 2:
        raise InputError(f"a router cannot be fitted on {rows} rows: give it a few hundred at least")
    own = [cache.metadata.model_index(model.name) for model in candidates]
    for model in candidates:
        index = cache.metadata.model_index(model.name)
        if index is not None and cache.metadata.models[index].digest != model.digest:
            raise CacheError(
                f"the cache holds rows of another model named {model.name!r}: give this one another name"
            )

    def chunks() -> Any:
        for part in cache.scan():
            free = ~np.isin(part.models, [index for index in own if index is not None])
            ties = tie_keys(part.ids, seed + 1)[free]
            yield part, free, Items(np.zeros(len(ties)), ties, tie_keys(part.ids, seed + 2)[free])

    cut = find_cut(lambda: (items for _, _, items in chunks()), rows)
    drawn = []
    for part, free, items in chunks():
        taken = np.ones(len(items.ties), dtype=bool) if cut is None else cut.takes(items)
        drawn.append(part.ids.take(pa.array(np.flatnonzero(free)[taken])))
    ids = pa.concat_arrays(drawn)
    if len(ids) < 2:
        raise InputError(
            f"the cache has {len(cache)} rows, of which {len(ids)} are not {candidates[0].name!r}'s own: "
            "too few to fit a router"
        )
    n = len(candidates)
    return pa.table(
        {
            "id": pa.concat_arrays([ids] * n),
            "candidate": np.repeat(np.arange(n, dtype=np.int16), len(ids)),
        }
    )


def _collect(staging: Staging, candidates: Sequence[Model]) -> list[Known]:
    order = staging.order()
    chunks = [staging.read(start) for start in staging.finished()]
    probs = np.concatenate([chunk.probs for chunk in chunks])
    candidate = order["candidate"].to_numpy()
    ids = order["id"].combine_chunks()
    known = []
    for index, model in enumerate(candidates):
        mine = np.flatnonzero(candidate == index)
        seconds = sum(chunk.seconds.get(f"model:{model.name}", 0.0) for chunk in chunks)
        known.append(Known(ids.take(pa.array(mine)), probs[mine], seconds))
    return known


def _aligned(known: Known, ids: pa.Array) -> Floats:
    aligned: Floats = known.probs[_match(known.ids, ids)]
    return aligned


def _match(there: pa.Array, wanted: pa.Array) -> npt.NDArray[np.int64]:
    positions: npt.NDArray[np.int64] = pc.index_in(wanted, value_set=there).to_numpy().astype(np.int64)
    return positions


def _fit_pairs(
    old: Floats,
    new: Sequence[Floats],
    labels: npt.NDArray[np.int64],
    candidates: Sequence[Model],
    form: InputForm,
    hidden: Sequence[int],
    epochs: int,
    holdout: float,
    seed: int,
) -> Router:
    if not 0 <= holdout < 1:
        raise InputError(f"the share of held-out rows must lie in [0, 1), got {holdout}")
    names, digests = [m.name for m in candidates], [m.digest for m in candidates]

    def train(rows: npt.NDArray[np.int64]) -> Router:
        return train_router(
            old[rows],
            [outputs[rows] for outputs in new],
            names,
            digests,
            form=form,
            hidden=hidden,
            epochs=epochs,
            seed=seed,
        )

    shuffled = np.random.default_rng(seed).permutation(len(old))
    held = shuffled[: int(holdout * len(old))]
    router = train(np.sort(shuffled))
    if len(held) < 2 or len(old) - len(held) < 2:
        return router
    judged = train(np.sort(shuffled[len(held) :]))
    evidence = gather_evidence(
        names, judged.benefits(old[held]), old[held], [outputs[held] for outputs in new], labels[held]
    )
    return replace(router, evidence=evidence)
