"""The refresh job: decide what a budget buys, run it, and make it one visible round."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.account import Account
from sparing.budget import affordable
from sparing.cache import Cache
from sparing.cache.known import drop_known
from sparing.cache.metadata import CHANGED
from sparing.data.samples import Samples, open_samples
from sparing.errors import CacheError, InputError
from sparing.models import Model
from sparing.progress import OnProgress
from sparing.refresh.class_lists import laid_out, needs_names, wanted_names
from sparing.refresh.commit import RefreshReport, commit_round, failed_rows, report_of
from sparing.refresh.expected import Curve, expected_curve
from sparing.refresh.failures import FailureLimit, OnFailures, Tally, tell_failures
from sparing.refresh.learned.slice_sizes import SliceRule
from sparing.refresh.options import RefreshOptions, Unfinished
from sparing.refresh.planners import planner_for
from sparing.refresh.planning import (
    count_assigned,
    order_rows,
    plan_rows,
    score_rows,
)
from sparing.refresh.records import RoundRecord
from sparing.refresh.round import Round, fingerprints_of, prepare_round
from sparing.refresh.running import drop_changed, find_samples, run_order
from sparing.refresh.scoring.holdout import Prediction
from sparing.refresh.slices import Planner, run_slices, staged_slices
from sparing.refresh.staging import Staging
from sparing.storage.files import scratch

COMMIT_SECONDS = 0.5
COMMIT_SECONDS_PER_ROW = 2e-6
"""What a round that must end by a certain time keeps back for its commit."""


@dataclass(frozen=True)
class Preview:
    """What a budget would buy.

    Attributes:
        rows: rows of the cache.
        refresh: rows that would be refreshed, by candidate, those that `fit` has paid for included.
        known: rows among them that `fit` has paid for.
        forwards: forwards still to be run, by candidate.
        seconds: predicted seconds of those forwards; None when a candidate has not been timed.
        cost: predicted cost in the candidates' stated unit; None when one states none.
        scorer: what ranks the rows.
        prediction: what held-out rows say of the result; None when there are none.
        correction: at most how many forwards correction takes; 0 when the round does not correct.
        probe: rows of the first slice, drawn at random, when the round learns while it spends; else None.
        curve: what a promise is expected to take, when `fit` has run rows of the cache; else None.
    """

    rows: int
    refresh: dict[str, int]
    known: int
    forwards: dict[str, int]
    seconds: float | None
    cost: float | None
    scorer: str
    prediction: Prediction | None
    correction: int = 0
    probe: int | None = None
    curve: Curve | None = None


def preview(
    path: str | Path, candidates: Sequence[Model], options: RefreshOptions, *, samples: Any = None
) -> Preview:
    """Return what a budget would buy, without running a model or writing anything.

    Args and errors are those of `refresh`; samples may be left out, and are then not checked.

    Returns:
        The preview.
    """
    values = None if samples is None else open_samples(samples)
    job = _prepared_unnamed(Cache.open(path), candidates, options, values)
    account = Account()
    with scratch() as folder:
        scored = score_rows(job, folder, account)
        capacity, costs = job.capacity(scored.totals.rows)
        each = job.seconds_per_forward()
        if costs is None and job.budget.unit == "seconds" and each[0]:
            capacity = affordable(max(float(job.budget.amount) - job.spent_by_fit(), 0.0), each[0])
        made = plan_rows(scored, capacity, costs, job.only_positive, account)
        counts = count_assigned(scored, made, len(job.candidates))
        if values is not None:
            find_samples(order_rows(scored, made), job.candidates, values)
    known = job.known_rows()
    forwards = {name: int(count) for name, count in zip(job.names, counts, strict=True)}
    refreshed = Counter(forwards)
    refreshed.update(job.names[choice] for choice, _ in known.values())
    return Preview(
        rows=scored.totals.rows,
        refresh=dict(refreshed),
        known=len(known),
        forwards=forwards,
        seconds=_weigh(counts, each),
        cost=_weigh(counts, [m.cost if m.unit != "seconds" else None for m in job.candidates]),
        scorer=job.scorer.name,
        prediction=job.predict(int(counts.sum()), scored.totals.competing, scored.totals.rows),
        correction=0
        if job.correction is None
        else job.correction.forwards(job.to_screen(scored.totals.rows)),
        probe=_probe(job, int(counts.sum()), scored.totals.competing) if job.learns else None,
        curve=None if job.promise is None else expected_curve(job),
    )


def _probe(job: Round, forwards: int, competing: int) -> int:
    known = job.known[job.names.index(job.target)]
    return max(SliceRule().probe(competing, forwards) - (0 if known is None else len(known.ids)), 0)


def refresh(
    path: str | Path,
    candidates: Sequence[Model],
    options: RefreshOptions,
    *,
    samples: Any = None,
    until: datetime | None = None,
    started: float | None = None,
    unfinished: Unfinished = "resume",
    compact: bool = True,
    on_progress: OnProgress | None = None,
    on_failures: OnFailures | None = None,
) -> RefreshReport:
    """Spend a budget on the rows of a cache where it is predicted to bring most (PURE, Algorithm 1).

    The work is staged chunk by chunk, in order of benefit, and becomes visible as one round at the end. After
    a kill, the same call resumes where it stopped.

    Args:
        path: the cache.
        candidates: models that the round may run.
        options: the budget, what ranks the rows, and how they are stored.
        samples: where the sample values are: whatever `open_samples` takes; not needed when every candidate
            replays stored outputs.
        until: when to stop and commit what was reached, with time zone.
        started: `time.monotonic` value from which a budget in seconds counts; now by default.
        unfinished: what to do about a round that was interrupted. "resume" continues it, if it was this same
            call, and refuses to start another; "commit" runs nothing and commits what is staged as a shorter
            round; "discard" drops what another call has staged, and starts over.
        on_progress: called after every chunk.
        compact: whether the cache is compacted after the round, if that is due; see `Cache.compact_if_due`.
        on_failures: called at the end if rows failed, which keep what they held, with columns id, model and
            reason; a warning by default. The next round tries them again.

    Returns:
        The report; its account covers restarts, too.

    Raises:
        BudgetError: the budget cannot be understood or weighed.
        InputError: samples are missing, the ranker does not know a candidate, or class counts differ.
        ModelError: models failed on too many rows, or on all; what was computed is kept, and the same call
            resumes.
        CacheError: not a cache, another process writes to it, another round is unfinished, or a full disk.
    """
    if unfinished not in get_args(Unfinished):
        raise InputError(f"unfinished is {' or '.join(get_args(Unfinished))}, not {unfinished!r}")
    begun = monotonic() if started is None else started
    with Cache.open(path).lock():
        cache = Cache.open(path)
        staging = Staging(cache.staged_round)
        if options.once is not None and (found := _named(cache, options.once)) is not None:
            if cache.unfinished_round() is None:  # a kill after the commit may have left something
                _clean_up(cache, staging.record(RoundRecord), staging)
            return report_of(found)
        values = None if samples is None else open_samples(samples)
        try:
            staged = staging.record(RoundRecord)
        except CacheError:
            if unfinished != "discard":
                raise
            staging.clear()
            staged = None
        names = wanted_names(cache.metadata, candidates, options.rename)
        if names is not None and needs_names(cache, names):
            _prepared_unnamed(cache, candidates, options, values)  # what is wrong is said before this change
            if staged is not None:
                if _committed(cache, staged) is not None:
                    _clean_up(cache, staged, staging)
                elif unfinished == "discard":
                    staging.clear()
                else:
                    raise _other_round(staged)
                staged = None
            if unfinished != "commit":
                cache.name_classes(names, options.rename)
        candidates = laid_out(cache.metadata, candidates, names, options.rename)
        options = _laid_out_recent(cache, options, names)
        if staged is None and values is not None and unfinished != "commit":
            _mark_changed(cache, values)
        models = None if staged is None else staged.models
        job = prepare_round(cache, candidates, options, values, staged=models)
        if staged is not None and staged.scorer == "entropy" and job.learns:
            # A round that was begun when entropy was the default is still the same command.
            plain = replace(options, scorer="entropy", features=None)
            before = prepare_round(cache, candidates, plain, values, staged=models)
            job = before if options.scorer is None and before.digest == staged.digest else job
        if staged is not None and (entry := _committed(cache, staged)) is not None:
            # Killed between the commit and the clean-up: the round is there already.
            _clean_up(cache, staged, staging)
            if staged.command == job.command and options.once == entry.get("once"):
                return report_of(entry)
        elif staged is not None and staged.digest != job.digest:
            if unfinished != "discard":
                raise _refusal(job, staged)
            staging.clear()
        if job.impute and not cache.keeps_imputed and not staging.begun and unfinished != "commit":
            cache.keep_imputed()
        planner = planner_for(job, values)
        if unfinished == "commit":
            if not staging.begun:
                raise CacheError("there is nothing to finish: no unfinished round is staged in this cache")
            complete = False
        else:
            complete = _run(
                job,
                options,
                staging,
                planner,
                values=values,
                until=until,
                begun=begun,
                on_progress=on_progress,
            )
        staged = staging.record(RoundRecord)
        if staged is None:
            raise AssertionError("the round was not staged")
        slices = staged_slices(staging)
        # When the time is up there is none left to learn from the last slice.
        predicted = planner.predicted(slices, observe=complete or unfinished == "commit")
        report, failed = commit_round(job, slices, staged, complete, predicted), failed_rows(job, slices)
        if compact:  # before what is staged goes, so that a kill here does not begin the round again
            report = replace(report, compacted=cache.compact_if_due())
        _clean_up(cache, staged, staging)
    tell_failures(failed, on_failures)
    return report


def _laid_out_recent(cache: Cache, options: RefreshOptions, names: Sequence[str] | None) -> RefreshOptions:
    """Return options whose models for correction are over the cache's classes, too."""
    if options.correction is None:
        return options
    recent = laid_out(cache.metadata, options.correction.recent, names, options.rename)
    return replace(options, correction=replace(options.correction, recent=recent))


def _prepared_unnamed(
    cache: Cache, candidates: Sequence[Model], options: RefreshOptions, values: Samples | None
) -> Round:
    """Check a round before the cache has its classes: by all but their names; nothing can be run."""
    wanted_names(cache.metadata, candidates, options.rename)
    plain = [replace(model, classes=None) for model in candidates]
    if options.correction is not None:
        recent = [replace(model, classes=None) for model in options.correction.recent]
        options = replace(options, correction=replace(options.correction, recent=recent))
    return prepare_round(cache, plain, options, values)


def _mark_changed(cache: Cache, samples: Samples) -> None:
    """Find the rows whose sample has changed since their output was computed."""
    fingerprints = fingerprints_of(cache, samples)
    if fingerprints is None:
        return
    marked = cache.metadata.model_index(CHANGED)
    found = []
    for rows in cache.scan():
        if rows.inputs is not None:
            now = fingerprints.of(rows.ids)
            changed = (rows.inputs != 0) & (now != 0) & (now != rows.inputs)
            changed &= rows.models != (-1 if marked is None else marked)
            found.append(rows.ids.filter(pa.array(changed)))
    ids = pa.concat_arrays(found) if found else pa.array([], cache.id_type)
    if len(ids):
        cache.mark_changed(ids)


def _run(
    job: Round,
    options: RefreshOptions,
    staging: Staging,
    planner: Planner,
    *,
    values: Samples | None,
    until: datetime | None,
    begun: float,
    on_progress: OnProgress | None,
) -> bool:
    """Run what is left of a round; False when its time ended first."""
    staged = staging.record(RoundRecord)
    if staged is not None and values is not None and not values.known_as(staged.samples):
        for part in staged_slices(staging).values():
            drop_changed(part, values)
    elapsed = max((part.elapsed() for part in staged_slices(staging).values()), default=0.0)

    slices = staged_slices(staging).values()
    for part in slices:
        part.retry()
    tally = Tally(FailureLimit.parse(options.max_failures), done=sum(part.rows_done() for part in slices))

    def run(part: Staging, models: Sequence[Model], chunk_rows: int) -> bool:
        return run_order(
            part,
            models,
            values,
            chunk_rows=chunk_rows,
            kind=job.cache.metadata.kind,
            elapsed_before=elapsed + monotonic() - begun,
            deadline=_deadline(job, until, begun, elapsed),
            tally=tally,
            on_progress=on_progress,
        )

    return run_slices(staging, planner, run, deadline=_deadline(job, until, begun, elapsed))


def _refusal(job: Round, staged: RoundRecord) -> CacheError:
    if staged.command == job.command:
        return CacheError(
            "the cache has changed since this round was staged: drop what is staged with --discard"
        )
    return _other_round(staged)


def _other_round(staged: RoundRecord) -> CacheError:
    return CacheError(
        f"an unfinished round is staged in this cache ({staged.what}): give that command "
        "again to resume it, add --finish to commit what is there, or --discard to drop it"
    )


def _clean_up(cache: Cache, done: RoundRecord | None, staging: Staging) -> None:
    """Drop what the round that was committed has used: of its own models, whatever is asked for now."""
    for name, digest in ({} if done is None else done.models).items():
        drop_known(cache.work_dir, name, digest)
    staging.clear()


def _named(cache: Cache, once: str) -> dict[str, Any] | None:
    return next((entry for entry in cache.metadata.rounds if entry.get("once") == once), None)


def _committed(cache: Cache, staged: RoundRecord) -> dict[str, Any] | None:
    return next((e for e in cache.metadata.history if e.get("request") == staged.digest), None)


def _deadline(job: Round, until: datetime | None, begun: float, elapsed: float) -> float | None:
    """Find when chunks must be done, on the monotonic clock: the sooner of the budget's end and `until`."""
    ends = []
    if job.budget.unit == "seconds":
        ends.append(begun + float(job.budget.amount) - job.spent_by_fit() - elapsed)
    if until is not None:
        ends.append(monotonic() + until.timestamp() - datetime.now(UTC).timestamp())
    keep_back = COMMIT_SECONDS + COMMIT_SECONDS_PER_ROW * len(job.cache)
    return min(ends) - keep_back if ends else None


def _weigh(counts: npt.NDArray[np.int64], each: Sequence[float | None]) -> float | None:
    if any(value is None for count, value in zip(counts, each, strict=True) if count):
        return None
    return float(sum(int(c) * (e or 0.0) for c, e in zip(counts, each, strict=True)))
