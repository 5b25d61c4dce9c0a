"""Carrying out an order of work chunk by chunk, so that a kill costs no more than the chunk in flight."""

from collections import defaultdict
from collections.abc import Sequence
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from sparing.data.samples import Samples
from sparing.errors import InputError
from sparing.models import Model, run
from sparing.progress import OnProgress, Progress
from sparing.refresh.staging import Chunk, Staging

FETCH_BATCHES = 4


def chunk_rows_for(total: int, batch_size: int) -> int:
    """Choose how many rows a chunk holds: about a hundredth of the work, whole batches, at most 8,192.

    A chunk is what a kill may cost and the step in which time is kept; each costs one synced file.
    """
    wanted = min(max(total // 100, 128), 8192)
    return -(-wanted // batch_size) * batch_size


def find_samples(order: pa.Table, models: Sequence[Model], samples: Samples | None) -> Any:
    """Look up where the samples of an order are, before any model is run.

    Args:
        order: columns id and candidate.
        models: the candidates.
        samples: where the sample values are; None when every model replays stored outputs.

    Returns:
        Positions in `samples`, shape (rows,); None when no model needs samples.

    Raises:
        InputError: samples are needed but not given, of another id type, or some are missing.
    """
    if not any(model.needs_samples for model in models):
        return None
    if samples is None:
        needing = next(model.name for model in models if model.needs_samples)
        raise InputError(f"model {needing!r} needs the samples: give them with --samples")
    ids = order["id"].combine_chunks()
    if len(ids) == 0:
        return np.zeros(0, dtype=np.int64)
    if pa.types.is_integer(ids.type) != pa.types.is_integer(samples.ids.type):
        raise InputError(f"the cache has ids of type {ids.type}, the samples of type {samples.ids.type}")
    positions = samples.index_of(ids)
    # A replaying candidate does not need its rows among the samples.
    needs = np.array([model.needs_samples for model in models])[order["candidate"].to_numpy()]
    missing = np.flatnonzero((positions < 0) & needs)
    if len(missing):
        raise InputError(
            f"{len(missing)} of the {len(ids)} rows to run are not among the samples, for example "
            f"{ids[int(missing[0])].as_py()!r}: give samples for every row, or delete those from the cache"
        )
    return positions


def run_order(
    staging: Staging,
    models: Sequence[Model],
    samples: Samples | None,
    *,
    chunk_rows: int,
    n_classes: int | None = None,
    elapsed_before: float = 0.0,
    deadline: float | None = None,
    on_progress: OnProgress | None = None,
) -> bool:
    """Run what is not finished yet of a staged order.

    Args:
        staging: holds the order; finished chunks are added to it.
        models: the candidates, by the order's `candidate` column.
        samples: where the sample values are.
        chunk_rows: rows per chunk, the same on every run of one order.
        n_classes: how many classes the models must give; None when nothing is known yet.
        elapsed_before: seconds that the command had taken when this was called, restarts included.
        deadline: `time.monotonic` value at which no further chunk may still be running.
        on_progress: called after every chunk.

    Returns:
        Whether every chunk is finished; False when the deadline came first.

    Raises:
        InputError: samples are missing or unreadable.
        ModelError: a model failed; finished chunks are kept.
    """
    order = staging.order()
    total = order.num_rows
    finished = set(staging.finished())
    positions = find_samples(order, models, samples)
    begun = monotonic()
    done = sum(min(chunk_rows, total - start) for start in finished)
    done_before, longest = done, 0.0
    for start in range(0, total, chunk_rows):
        if start in finished:
            continue
        if deadline is not None and monotonic() + longest > deadline:
            return False
        chunk_begun = monotonic()
        staging.starting(start)
        part = order.slice(start, chunk_rows)
        where = None if positions is None else positions[start : start + chunk_rows]
        probs, seconds = _run_chunk(part, models, samples, where, n_classes)
        staging.add(Chunk(start, probs, seconds, elapsed_before + monotonic() - begun))
        longest = max(longest, monotonic() - chunk_begun)
        done += part.num_rows
        if on_progress is not None:
            spent = monotonic() - begun
            left = spent / (done - done_before) * (total - done)
            on_progress(Progress(done, total, spent, left))
    return True


def _run_chunk(
    part: pa.Table, models: Sequence[Model], samples: Samples | None, positions: Any, n_classes: int | None
) -> tuple[Any, dict[str, float]]:
    ids = part["id"].to_pylist()
    candidate = part["candidate"].to_numpy()
    seconds: defaultdict[str, float] = defaultdict(float)
    probs: Any = None
    for index in np.unique(candidate):
        model = models[index]
        mine = np.flatnonzero(candidate == index)
        # A few batches at a time: the values of a whole chunk of pictures may not fit into memory.
        for start in range(0, len(mine), FETCH_BATCHES * model.batch_size):
            rows = mine[start : start + FETCH_BATCHES * model.batch_size]
            values = None
            if model.needs_samples and samples is not None:
                started = perf_counter()
                values = samples.fetch(positions[rows])
                seconds["reading"] += perf_counter() - started
            outputs, spent = run(model, [ids[row] for row in rows], values)
            seconds[f"model:{model.name}"] += spent
            n_classes = outputs.shape[1] if n_classes is None else n_classes
            if outputs.shape[1] != n_classes:
                raise InputError(
                    f"model {model.name!r} gives {outputs.shape[1]} classes, where {n_classes} are expected: "
                    "old and new models must share their classes"
                )
            if probs is None:
                probs = np.empty((len(ids), n_classes), dtype=np.float32)
            probs[rows] = outputs
    return probs, seconds
