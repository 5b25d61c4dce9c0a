"""The refresh job: decide what a budget buys, run it, and make it one visible round."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.account import Account
from sparing.budget import Budget, affordable
from sparing.cache import Cache
from sparing.cache.known import drop_known
from sparing.data.samples import Samples, open_samples
from sparing.errors import CacheError
from sparing.models import Model
from sparing.progress import OnProgress
from sparing.refresh.commit import RefreshReport, commit_round, report_of
from sparing.refresh.correction.rules import Schedule
from sparing.refresh.correction.screening import screen_rows
from sparing.refresh.correction.settling import run_correction, to_screen
from sparing.refresh.evidence import Prediction
from sparing.refresh.planning import (
    count_assigned,
    left_alone,
    order_rows,
    plan_rows,
    score_rows,
    temporary_folder,
)
from sparing.refresh.round import Objective, Round, prepare_round
from sparing.refresh.router import Router
from sparing.refresh.running import chunk_rows_for, find_samples, run_order
from sparing.refresh.staging import Staging

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


def preview(
    path: str | Path,
    candidates: Sequence[Model],
    *,
    budget: str | Budget,
    samples: Any = None,
    scorer: str | None = None,
    router: Router | str | Path | None = None,
    target: str | None = None,
    only_positive: bool = False,
    objective: Objective = "consistency",
    correct: bool | Schedule = False,
    correct_within_budget: bool = False,
    recent: Sequence[Model] = (),
    seed: int = 0,
) -> Preview:
    """Say what a budget would buy, without running a model or writing anything.

    Args and errors are those of `refresh`; samples may be left out, and are then not checked.

    Returns:
        The preview.
    """
    cache = Cache.open(path)
    job = prepare_round(
        cache,
        candidates,
        budget,
        scorer,
        router,
        target,
        only_positive,
        seed,
        correct,
        correct_within_budget,
        recent,
        objective,
    )
    account = Account()
    with temporary_folder() as folder:
        scored = score_rows(job, Path(folder), account)
        capacity, costs = job.capacity(scored.totals.rows)
        each = job.seconds_per_forward()
        if costs is None and job.budget.unit == "seconds" and each[0]:
            capacity = affordable(max(float(job.budget.amount) - job.spent_by_fit(), 0.0), each[0])
        made = plan_rows(scored, capacity, costs, only_positive, account)
        counts = count_assigned(scored, made, len(job.candidates))
        if samples is not None:
            find_samples(order_rows(scored, made), job.candidates, open_samples(samples))
    known = job.known_rows()
    forwards = {name: int(count) for name, count in zip(job.names, counts, strict=True)}
    refreshed = Counter(forwards)
    refreshed.update(job.names[choice] for choice, _ in known.values())
    return Preview(
        scored.totals.rows,
        dict(refreshed),
        len(known),
        forwards,
        _weigh(counts, each),
        _weigh(counts, [m.cost if m.unit != "seconds" else None for m in job.candidates]),
        job.scorer.name,
        job.predict(int(counts.sum()), scored.totals.competing, scored.totals.rows),
        0 if job.correction is None else job.correction.reserve(scored.totals.rows),
    )


def refresh(
    path: str | Path,
    candidates: Sequence[Model],
    *,
    budget: str | Budget,
    samples: Any = None,
    scorer: str | None = None,
    router: Router | str | Path | None = None,
    target: str | None = None,
    only_positive: bool = False,
    objective: Objective = "consistency",
    correct: bool | Schedule = False,
    correct_within_budget: bool = False,
    recent: Sequence[Model] = (),
    seed: int = 0,
    until: datetime | None = None,
    started: float | None = None,
    finish: bool = False,
    discard: bool = False,
    on_progress: OnProgress | None = None,
) -> RefreshReport:
    """Spend a budget on the rows of a cache where it is predicted to bring most (PURE, Algorithm 1).

    The work is staged chunk by chunk, in order of benefit, and becomes visible as one round at the end. After
    a kill, the same call continues where it stopped.

    Args:
        path: the cache.
        candidates: models that the round may run.
        budget: what may be spent; see `Budget.parse`. What `fit` ran for these candidates on this cache's
            rows counts in it, and those rows are refreshed without running them again. With one candidate, a
            budget in seconds or cost runs rows in order of benefit until it is spent; with several, each row
            gets the candidate that brings most for its cost, and rows that none improves are left alone.
        samples: where the sample values are: whatever `open_samples` takes; not needed when every candidate
            replays stored outputs.
        scorer: what ranks the rows: "router", "change" (both need one), "entropy", "least-confidence",
            "margin", "random", or "auto": what the router's held-out rows advise; by default the router when
            there is one ("change" under the objective "accuracy"), else entropy.
        router: from `fit`, or its file.
        target: the candidate whose full re-run is the reference; the last one by default.
        only_positive: leave alone rows that no candidate is predicted to improve.
        objective: "consistency" stores the new distributions as they are; "accuracy" pools each with the one
            that the row holds, by exponents fitted to the labelled rows that both are known of.
        correct: from round 2 on, screen and settle rows that look stale (PURE, 3.3), by Table 3's schedule or
            another; its forwards come on top of the budget.
        correct_within_budget: correct, and pay for it from the budget.
        recent: models of earlier rounds that correction may run again.
        seed: decides the order among equal benefits.
        until: when to stop and commit what was reached, with time zone.
        started: `time.monotonic` value from which a budget in seconds counts; now by default.
        finish: run nothing; commit what is staged as a shorter round.
        discard: drop what an earlier, different call has staged, and start over.
        on_progress: called after every chunk.

    Returns:
        The report; its account covers restarts, too.

    Raises:
        BudgetError: the budget cannot be understood or weighed.
        InputError: samples are missing, the router does not know a candidate, or class counts differ.
        ModelError: a model failed; what was computed is kept, and the same call continues.
        CacheError: not a cache, another process writes to it, another round is unfinished, or a full disk.
    """
    begun = monotonic() if started is None else started
    with Cache.open(path).lock():
        cache = Cache.open(path)
        job = prepare_round(
            cache,
            candidates,
            budget,
            scorer,
            router,
            target,
            only_positive,
            seed,
            correct,
            correct_within_budget,
            recent,
            objective,
        )
        staging = Staging(cache.staged_round)
        request = job.request()
        staged = staging.request()
        if staged is not None and (entry := _committed(cache, staged)) is not None:
            # Killed between the commit and the clean-up: the round is there already.
            _clean_up(job, staging)
            if staged["command"] == request["command"]:
                return report_of(entry)
            staged = None
        if staged is not None and staged["digest"] != request["digest"]:
            if not discard and staged["command"] == request["command"]:
                raise CacheError(
                    "the cache has changed since this round was staged: drop what is staged with --discard"
                )
            if not discard:
                raise CacheError(
                    f"an unfinished round is staged in this cache ({staged['what']}): give that command "
                    "again to go on with it, add --finish to commit what is there, or --discard to drop it"
                )
            staged = None
        if finish:
            if staged is None:
                raise CacheError("there is nothing to finish: no unfinished round is staged in this cache")
            report = commit_round(job, staging, staged, complete=False)
        else:
            values = None if samples is None else open_samples(samples)
            if staged is None:
                staged = _stage(job, staging, request, values)
            elapsed = max((staging.read(start).elapsed for start in staging.finished()), default=0.0)
            complete = run_order(
                staging,
                job.candidates,
                values,
                chunk_rows=staged["chunk_rows"],
                n_classes=cache.metadata.n_classes,
                elapsed_before=elapsed + monotonic() - begun,
                deadline=_deadline(job, staged, until, begun, elapsed),
                on_progress=on_progress,
            )
            if complete and job.correction is not None:
                complete = run_correction(
                    job,
                    staging,
                    values,
                    elapsed + monotonic() - begun,
                    _deadline(job, staged, until, begun, elapsed),
                    on_progress,
                )
            report = commit_round(job, staging, staged, complete)
        _clean_up(job, staging)
        return report


def _clean_up(job: Round, staging: Staging) -> None:
    staging.clear()
    for model in job.candidates:
        drop_known(job.cache.work_dir, model.name, model.digest)


def _committed(cache: Cache, staged: dict[str, Any]) -> dict[str, Any] | None:
    return next((e for e in cache.metadata.history if e.get("request") == staged["digest"]), None)


def _stage(job: Round, staging: Staging, request: dict[str, Any], samples: Samples | None) -> dict[str, Any]:
    account = Account()
    with temporary_folder() as folder:
        scored = score_rows(job, Path(folder), account)
        capacity, costs = job.capacity(scored.totals.rows)
        made = plan_rows(scored, capacity, costs, job.only_positive, account)
        started = perf_counter()
        order = order_rows(scored, made)
        tables = {}
        if job.correction is not None:
            count = job.correction.step.screened(scored.totals.rows)
            tables["screened"] = screen_rows(lambda: left_alone(scored, made), count)
    find_samples(order, job.candidates, samples)
    if job.correction is not None:
        models = [model for model in job.correction.models if model is not None]
        find_samples(to_screen(job, tables["screened"]), models, samples)
    account.seconds["selection"] += perf_counter() - started
    staged = {
        **request,
        "chunk_rows": chunk_rows_for(order.num_rows, max(model.batch_size for model in job.candidates)),
        "totals": asdict(scored.totals),
        "account": account.to_dict(),
    }
    staging.begin(staged, order, **tables)
    return staged


def _deadline(
    job: Round, staged: dict[str, Any], until: datetime | None, begun: float, elapsed: float
) -> float | None:
    """Find when chunks must be done, on the monotonic clock: the sooner of the budget's end and `until`."""
    ends = []
    if job.budget.unit == "seconds":
        ends.append(begun + float(job.budget.amount) - job.spent_by_fit() - elapsed)
    if until is not None:
        ends.append(monotonic() + until.timestamp() - datetime.now(UTC).timestamp())
    keep_back = COMMIT_SECONDS + COMMIT_SECONDS_PER_ROW * staged["totals"]["rows"]
    return min(ends) - keep_back if ends else None


def _weigh(counts: npt.NDArray[np.int64], each: Sequence[float | None]) -> float | None:
    if any(value is None for count, value in zip(counts, each, strict=True) if count):
        return None
    return float(sum(int(c) * (e or 0.0) for c, e in zip(counts, each, strict=True)))
