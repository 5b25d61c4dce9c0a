"""Carrying out an order of work chunk by chunk, so that a kill costs no more than the chunk in flight."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.data.digests import digest_values
from sparing.data.samples import Samples
from sparing.errors import InputError, ModelError
from sparing.execution import Engine, Local
from sparing.models import Model
from sparing.outputs import Classes, OutputKind, Outputs
from sparing.outputs.chunks import rows_per_chunk, width_of
from sparing.progress import OnProgress, Progress
from sparing.refresh.failures import Tally
from sparing.refresh.staging import Chunk, Failed, Staging

FETCH_BATCHES = 4
CHUNK_SECONDS = 2.0
"""How long a chunk takes at most, if a batch does: what a kill, or a call that fails, can cost."""

CHECK_ROWS = 256
"""Samples that are read at a time to see whether they changed."""


def chunk_rows_for(total: int, models: Sequence[Model], kind: OutputKind | None = None) -> int:
    """Choose how many rows a chunk holds: about a hundredth of the work, whole batches, at most 8,192.

    Rows of many classes make smaller chunks; see `rows_per_chunk`. A chunk is what a kill may cost and the
    step in which time is kept; each costs one synced file.
    """
    batch_size = max(model.batch_size for model in models)
    wanted = min(max(total // 100, 128), 8192)
    held = rows_per_chunk(width_of(kind), 8192)
    return (
        -(-wanted // batch_size) * batch_size if wanted <= held else max(held // batch_size, 1) * batch_size
    )


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
    kind: OutputKind | None = None,
    elapsed_before: float = 0.0,
    deadline: float | None = None,
    tally: Tally | None = None,
    engine: Engine | None = None,
    on_progress: OnProgress | None = None,
) -> bool:
    """Run what is not finished yet of a staged order.

    A batch that a model fails on is tried again row by row. Rows that fail alone, or whose sample cannot be
    read, are noted with the reason, and are not run again before `Staging.retry`.

    Args:
        staging: holds the order; finished chunks are added to it.
        models: the candidates, by the order's `candidate` column.
        samples: where the sample values are.
        chunk_rows: the most rows per chunk, the same on every run of one order. A chunk of one model is made
            smaller where it would take longer than `CHUNK_SECONDS`.
        kind: the kind of output that the models must return; None when nothing is known yet.
        elapsed_before: seconds that the command had taken when this was called, restarts included.
        deadline: `time.monotonic` value at which no further chunk may still be running. How long a forward
            takes is learned on the way, from one row at first.
        tally: counts what was tried before, and says when too much has failed; by default it counts this
            order alone, under the default limits.
        engine: where the chunks are computed; this process by default.
        on_progress: called after every chunk.

    Returns:
        Whether every chunk is finished; False when the deadline came first.

    Raises:
        InputError: samples are missing.
        ModelError: more rows failed than may, or all of them; what was finished is kept.
    """
    order = staging.order()
    total = order.num_rows
    left = _gaps(staging.tried(), total, chunk_rows)
    if not left:
        return True
    positions = find_samples(order, models, samples)
    begun = chunk_begun = monotonic()
    done = done_before = total - sum(end - start for start, end in left)
    used = np.unique(order["candidate"].to_numpy())
    # Where several models share a chunk, its size decides which rows share a batch: it stays as it is, unless
    # the clock decides anyway.
    split = len(used) == 1 or deadline is not None
    pace = _Pace(max(models[index].batch_size for index in used), deadline)
    late = False
    tally = Tally(done=staging.rows_done()) if tally is None else tally

    def works() -> Iterator[_Work]:
        nonlocal chunk_begun, late
        for first, end in left:
            start = first
            while start < end:
                rows = pace.rows(end - start, monotonic()) if split else end - start
                if rows == 0:
                    late = True
                    return
                chunk_begun = monotonic()
                staging.starting(start, rows, elapsed_before + chunk_begun - begun + pace.seconds(rows))
                part = order.slice(start, rows)
                where = None if positions is None else positions[start : start + rows]
                ids, candidate = part["id"].to_pylist(), part["candidate"].to_numpy()
                yield _Work(start, ids, candidate, where, replace(tally))
                start += rows

    for made in (engine or Local()).map(_RunChunk(models, samples, kind), works()):
        elapsed = elapsed_before + monotonic() - begun
        chunks = [replace(chunk, elapsed=elapsed) for chunk in made.chunks]
        if chunks or made.failed is not None:
            pace.most = min([pace.most, *(rows_per_chunk(width_of(each.kind), pace.most) for each in chunks)])
            staging.add(*chunks, failed=made.failed, begun=(made.start, made.rows))
        tally.add(made.after, since=made.before)
        tally.check()
        pace.observe(made.rows, monotonic() - chunk_begun)
        done += made.rows
        if on_progress is not None:
            spent = monotonic() - begun
            on_progress(Progress(done, total, spent, spent / (done - done_before) * (total - done)))
    if not late:
        tally.check_end()
    return not late


def _gaps(spans: list[tuple[int, int]], total: int, chunk_rows: int) -> list[tuple[int, int]]:
    """List what is left to run, cut where chunks must end: at multiples of the most rows that one has."""
    gaps, at = [], 0
    for start, end in [*spans, (total, total)]:
        while at < start:
            stop = min(start, (at // chunk_rows + 1) * chunk_rows)
            gaps.append((at, stop))
            at = stop
        at = max(at, end)
    return gaps


class _Pace:
    """How many rows the next chunk may have, by how long those before took."""

    def __init__(self, batch_size: int, deadline: float | None) -> None:
        self.batch_size = batch_size
        self.deadline = deadline
        self.slowest = 0.0
        self.most = 8192 * batch_size  # until the width of a row is known
        self.latest: float | None = None

    def rows(self, most: int, now: float) -> int:
        """Return how many of at most so many rows to run next; 0 when no row would be done in time."""
        if self.latest is None:
            if self.deadline is None:
                return min(most, self.batch_size)
            return min(most, 1) if now < self.deadline else 0
        most = min(most, self._batches(self.most))
        rows = min(most, self._batches(CHUNK_SECONDS / self.latest if self.latest else most))
        if self.deadline is None:
            return rows
        fit = (self.deadline - now) / self.slowest if self.slowest else float(rows)
        return max(min(rows, self._batches(fit) if fit >= self.batch_size else int(fit)), 0)

    def seconds(self, rows: int) -> float:
        """Return how long so many rows are expected to take; 0 as long as nothing is known."""
        return rows * (self.latest or 0.0)

    def observe(self, rows: int, seconds: float) -> None:
        """Note how long a chunk took."""
        self.latest = seconds / rows
        self.slowest = max(self.slowest, self.latest)

    def _batches(self, rows: float) -> int:
        return max(int(min(rows, 1e9)) // self.batch_size, 1) * self.batch_size


@dataclass(frozen=True)
class _Work:
    """One chunk to run: where it starts, m ids, which model each goes to (m,), and its sample's position.

    The tally is what was tried before.
    """

    start: int
    ids: list[object]
    candidate: npt.NDArray[np.integer[Any]]
    positions: npt.NDArray[np.int64] | None
    tally: Tally


@dataclass(frozen=True, kw_only=True)
class _Made:
    """What became of one chunk: what was computed, in runs of rows without a gap, and what failed.

    The tallies are of what was tried before, and after it.
    """

    start: int
    rows: int
    chunks: list[Chunk]
    failed: Failed | None
    before: Tally
    after: Tally


@dataclass(frozen=True)
class _RunChunk:
    """Computes one chunk; all that it needs travels with it, as far as the models and samples do."""

    models: Sequence[Model]
    samples: Samples | None
    kind: OutputKind | None

    def __call__(self, work: _Work) -> _Made:
        made = _Making(work, self.kind)
        for index in np.unique(work.candidate):
            model = self.models[index]
            mine = np.flatnonzero(work.candidate == index)
            # A few batches at a time: the values of a whole chunk of images may not fit into memory.
            for start in range(0, len(mine), FETCH_BATCHES * model.batch_size):
                if made.stopped:
                    return made.finished()
                rows = mine[start : start + FETCH_BATCHES * model.batch_size]
                values: dict[int, Any] | None = None
                if model.needs_samples and self.samples is not None and work.positions is not None:
                    values = made.fetch(rows, work.positions, self.samples)
                    rows = made.first_of_each(model, rows[np.isin(rows, list(values))])
                for at in range(0, len(rows), model.batch_size):
                    made.run(model, rows[at : at + model.batch_size], values)
        return made.finished()


class _Making:
    """One chunk in the making."""

    def __init__(self, work: _Work, kind: OutputKind | None) -> None:
        self.work = work
        self.kind = kind
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.inputs = np.zeros(len(work.ids), dtype=np.uint64)
        self.parts: list[Outputs] = []
        self.placed: list[npt.NDArray[np.int64]] = []
        self.reasons: dict[int, str] = {}
        self.first: dict[tuple[str, int], int] = {}
        self.same_as: dict[int, int] = {}
        self.reused: Counter[str] = Counter()
        self.wasted = 0
        self.tally = replace(work.tally)

    @property
    def stopped(self) -> bool:
        """Whether so much failed that the rest need not be tried."""
        return self.tally.exceeded

    def fetch(
        self, rows: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], samples: Samples
    ) -> dict[int, Any]:
        """Read the samples of some rows; those that cannot be read fail."""
        started = perf_counter()
        try:
            values = dict(zip(rows.tolist(), samples.fetch(positions[rows]), strict=True))
        except InputError:
            values = {}
            for row in rows.tolist():
                if self.stopped:
                    break
                try:
                    values[row] = samples.fetch(positions[[row]])[0]
                except InputError as error:
                    self._fail(row, str(error), of_model=False)
        self.inputs[list(values)] = digest_values(list(values.values()))
        self.seconds["reading"] += perf_counter() - started
        return values

    def first_of_each(self, model: Model, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Leave out rows whose sample is identical to that of a row before: they share its output."""
        kept = []
        for row, digest in zip(rows.tolist(), self.inputs[rows].tolist(), strict=True):
            first = self.first.setdefault((model.name, digest), row)
            if first == row:
                kept.append(row)
            else:
                self.same_as[row] = first
                self.reused[model.name] += 1
        return np.array(kept, dtype=np.int64)

    def run(self, model: Model, rows: npt.NDArray[np.int64], values: dict[int, Any] | None) -> None:
        """Run a batch; where that fails, run its rows one by one. Do nothing once it has stopped."""
        if self.stopped:
            return
        started = perf_counter()
        ids = [self.work.ids[row] for row in rows]
        try:
            outputs = model(ids, None if values is None else [values[row] for row in rows.tolist()])
        except ModelError as error:
            if _ends_program(error):
                raise
            self.wasted += len(rows)
            self.seconds[f"wasted:{model.name}"] += perf_counter() - started
            if len(rows) == 1:
                self._fail(int(rows[0]), str(error), of_model=True)
                return
            for row in rows:
                self.run(model, row[None], values)
            return
        self.seconds[f"model:{model.name}"] += perf_counter() - started
        self.kind = (model.kind or Classes.of(outputs)) if self.kind is None else self.kind
        if not self.kind.matches(outputs):
            self.kind.check(outputs, what=f"model {model.name!r}")
        self.parts.append(outputs)
        self.placed.append(rows)
        self.tally.succeed(len(rows))

    def _fail(self, row: int, reason: str, *, of_model: bool) -> None:
        self.reasons[row] = reason
        self.tally.fail(reason, of_model=of_model)

    def finished(self) -> _Made:
        """Return what became of the chunk."""
        start, rows = self.work.start, len(self.work.ids)
        # What was wasted is noted with the first chunk, or with the failures where there is none.
        seconds, wasted = dict(self.seconds), self.wasted
        chunks = []
        if self.kind is not None and self.parts:
            placed = np.concatenate(self.placed)
            which = {row: at for at, row in enumerate(placed.tolist())}
            for row, first in self.same_as.items():
                if first in which:
                    which[row] = which[first]
                else:
                    self._fail(row, self.reasons.get(first, "not run"), of_model=False)
            placed = np.array(sorted(which), dtype=np.int64)
            outputs = self.kind.join(self.parts)[np.array([which[row] for row in placed.tolist()])]
            for run in np.split(np.arange(len(placed)), np.flatnonzero(np.diff(placed) > 1) + 1):
                chunks.append(
                    Chunk(
                        start + int(placed[run[0]]),
                        outputs[run],
                        self.kind,
                        seconds,
                        0.0,
                        wasted=wasted,
                        inputs=self.inputs[placed[run]],
                    )
                )
                seconds, wasted = {}, 0
        if chunks:
            chunks[0] = replace(chunks[0], reused=dict(self.reused))
        failed = None
        if self.reasons:
            at = sorted(self.reasons)
            reasons = [self.reasons[row] for row in at]
            failed = Failed(rows=[start + row for row in at], reasons=reasons, wasted=wasted, seconds=seconds)
        return _Made(
            start=start, rows=rows, chunks=chunks, failed=failed, before=self.work.tally, after=self.tally
        )


def _ends_program(error: BaseException | None) -> bool:
    """Return whether it is the program that ends, or the machine that is full: no row is to blame."""
    while error is not None:
        if isinstance(error, SystemExit | MemoryError):
            return True
        error = error.__cause__
    return False


def drop_changed(staging: Staging, samples: Samples) -> int:
    """Drop the finished chunks of a staged order whose samples are not those that they were computed from.

    Args:
        staging: holds the order and the chunks.
        samples: where the sample values are now.

    Returns:
        How many rows have another sample now, or none.
    """
    ids = staging.order()["id"].combine_chunks()
    changed = 0
    for chunk in list(staging.chunks()):
        if chunk.inputs is not None:
            mine = ids.slice(chunk.start, len(chunk))
            wrong = changed_inputs(mine, chunk.inputs, samples)
            if wrong.any():
                staging.drop(chunk)
                changed += int(wrong.sum())
    return changed


def changed_inputs(ids: pa.Array, inputs: npt.NDArray[np.uint64], samples: Samples) -> npt.NDArray[np.bool_]:
    """Return which rows were computed from another sample than the one that is there now.

    Args:
        ids: m ids.
        inputs: shape (m,), digests of the samples that they were computed from; 0 where none was needed.
        samples: where the sample values are now.

    Returns:
        Shape (m,); True where there is no such sample any more, too.
    """
    wrong = np.zeros(len(ids), dtype=bool)
    used = np.flatnonzero(inputs)
    positions = samples.index_of(ids)
    wrong[used] = positions[used] < 0
    for start in range(0, len(used), CHECK_ROWS):
        rows = used[start : start + CHECK_ROWS]
        rows = rows[positions[rows] >= 0]
        wrong[rows] = digest_values(samples.fetch(positions[rows])) != inputs[rows]
    return wrong
