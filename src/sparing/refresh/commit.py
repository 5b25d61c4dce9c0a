"""The end of a round: what was computed becomes rows, with the account of what it took, in one version."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import to_builtins

from sparing.account import Account
from sparing.cache import ModelInfo, Rows, Store
from sparing.cache.metadata import Metadata
from sparing.cache.rows import Imputations
from sparing.data.fingerprints import VALUE
from sparing.models import Model
from sparing.numerics.selection import tie_keys
from sparing.outputs import Outputs
from sparing.outputs.chunks import rows_per_chunk, width_of
from sparing.refresh.correction.settling import corrected_rows, labelled_alternatives, screened_rows
from sparing.refresh.planning import right_rows
from sparing.refresh.pooling.exponents import Judgement
from sparing.refresh.pooling.pools import Held, Labelled, Pooler, Pools, held_by, spread, stored_probs
from sparing.refresh.predicted import Predicted
from sparing.refresh.promise import certificate
from sparing.refresh.records import RoundRecord, SliceRecord
from sparing.refresh.round import Round
from sparing.refresh.scoring.holdout import Prediction
from sparing.refresh.slices import FIRST, Slices, purpose_of, updates
from sparing.refresh.staging import Chunk

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

SHOWN = 5
"""So many of the rows that failed are kept in the history."""

PREDICTED_ROWS = 32_768
"""So many rows that get a predicted answer are held in memory at most."""

Change = Literal["update", "prediction", "correction"]

REASON = 300
"""So many characters of each reason."""


@dataclass(frozen=True)
class RefreshReport:
    """What a round did.

    Attributes:
        round: the round that was committed; the current one when there was nothing to store.
        rows: rows of the cache.
        refreshed: rows that the budget refreshed.
        complete: whether everything planned was run; False after a deadline or `finish`.
        account: what was spent.
        share_of_forwards: forwards as a share of a full re-run's.
        share_of_time: seconds of this round as a share of a full re-run's, estimated from the measured
            seconds per forward; None when nothing was run.
        accuracy_before: accuracy over labelled rows before the round; None without labels.
        accuracy: the same after it.
        prediction: what held-out rows said of consistency; None when there are none.
        screened: rows that correction screened.
        corrected: rows that correction settled.
        pooling: under the objective "accuracy", by candidate: the exponents ("old", "new"), what held-out
            labels say of pooling ("pooled") and of replacing ("replaced"; None with too few), and how many
            labels there were ("rows"); None under another objective.
        changed: rows of those refreshed whose sample had changed since their output was computed.
        failed: rows that failed, and keep what they held; the next round tries them again.
        compacted: what was compacted afterwards, or why that failed; see `Cache.compact_if_due`. None when
            nothing was due, and in the history.
        imputation: of a round that learns: what `Predicted.report` says of the answers that are predicted for
            rows that were not run; None where nothing can be predicted.
        failures: the first of them: id, model and reason.
        learning: when the round learned while it spent: rows of the random "probe", the number of "slices"
            and of those "learned" (ranked by more than entropy), and of the last one what `SliceLearning`
            says; None otherwise.
        left: rows that no candidate had written before the round; None in rounds of earlier releases.
        promise: when something was promised: what was asked for and what is certified, as
            `sparing.refresh.promise.certificate` says; None otherwise.
    """

    round: int
    rows: int
    refreshed: int
    complete: bool
    account: dict[str, Any]
    share_of_forwards: float
    share_of_time: float | None
    accuracy_before: float | None
    accuracy: float | None
    prediction: Prediction | None
    screened: int = 0
    corrected: int = 0
    pooling: dict[str, dict[str, float | None]] | None = None
    learning: dict[str, Any] | None = None
    left: int | None = None
    changed: int = 0
    failed: int = 0
    failures: tuple[dict[str, Any], ...] = ()
    compacted: dict[str, Any] | None = None
    promise: dict[str, Any] | None = None
    imputation: dict[str, Any] | None = None


def commit_round(
    round_: Round,
    slices: Slices,
    record: RoundRecord,
    complete: bool,
    predicted: Predicted | None = None,
) -> RefreshReport:
    """Make everything that is staged visible as one round.

    Args:
        round_: what was asked for.
        slices: what was computed.
        record: what the round began with.
        complete: whether everything planned was run.
        predicted: what rows store that were not run.

    Returns:
        The report.

    Raises:
        CacheError: writing failed; everything stays staged.
    """
    cache = round_.cache
    account = _account(round_, slices, record)
    run = sum(part.rows_done() for part in updates(slices))
    prediction = round_.predict(run, record.totals.competing, record.totals.rows)
    tally = _Tally(cache)
    failed = failed_rows(round_, slices)

    def report(pools: Pooler) -> RefreshReport:
        result = _report(round_, record, account, tally, pools)
        screened = 0 if round_.correction is None else screened_rows(slices).num_rows
        learning = _learning(slices, record)
        return replace(
            result,
            complete=complete,
            prediction=prediction,
            screened=screened,
            learning=learning,
            left=record.totals.competing,
            changed=_changed(round_, slices),
            imputation=None if predicted is None else predicted.report,
            promise=None if round_.promise is None else certificate(round_.promise, slices),
            failed=failed.num_rows,
            failures=_shown(failed),
        )

    if run == 0 and not round_.known_rows() and round_.correction is None:
        # Nothing to store: a round that changes nothing would only make history harder to read.
        return report(Pools(cache.metadata, {}, round_.seed))
    metadata = _metadata(round_, account)
    if round_.pools is not None:
        pools = round_.pools(metadata)
    else:
        pools = Pools(metadata, _labelled(round_, slices), round_.seed)
    started = perf_counter()

    def entry(bytes_written: int) -> dict[str, Any]:
        account.seconds["writing"] += perf_counter() - started
        account.bytes_written = bytes_written
        return {
            "op": "refresh",
            "request": record.digest,
            "what": record.what,
            "scorer": record.scorer,
            "digests": record.models,
            "target": record.target,
            "seed": record.seed,
            **({} if round_.once is None else {"once": round_.once}),
            "report": asdict(report(pools)),
        }

    cache.refresh_rows(
        tally.counting(_all_rows(round_, slices, pools, predicted)), lambda: pools.metadata, entry
    )
    return report_of(cache.metadata.history[-1])


def report_of(entry: dict[str, Any]) -> RefreshReport:
    """Read the report of a round from the cache's history."""
    values = dict(entry["report"])
    values["failures"] = tuple(values.get("failures", ()))
    if values["prediction"] is not None:
        values["prediction"] = Prediction(**values["prediction"])
    return RefreshReport(**values)


class _Tally:
    """Counts what refreshing changes while the rows go by."""

    def __init__(self, cache: Store) -> None:
        self.cache = cache
        self.rows = self.corrected = self.right_before = self.right_after = 0

    def counting(self, batches: Iterator[tuple[Rows, int, Change]]) -> Iterator[Rows]:
        for rows, right_before, change in batches:
            self.rows += len(rows) if change == "update" else 0
            self.corrected += len(rows) if change == "correction" else 0
            self.right_before += right_before
            stored = replace(rows, stored=self.cache.as_stored(rows.outputs))
            self.right_after += int(right_rows(stored, self.cache.metadata.kind).sum())
            yield rows


def _account(round_: Round, slices: Slices, record: RoundRecord) -> Account:
    account = Account(rows_scored=record.rows_scored)
    account.seconds.update(record.seconds)
    for name, part in slices.items():
        purpose, models = purpose_of(name), _models(round_, name)
        if name != FIRST:
            noted = part.record(SliceRecord)
            for phase, seconds in (noted.seconds if noted is not None else {}).items():
                account.seconds[phase] += seconds
        order, spent = part.order(), Counter[str]()
        candidate = order["candidate"].to_numpy()
        for chunk in part.chunks():
            account.add_seconds(chunk.seconds)
            run = np.bincount(_candidates(order, chunk), minlength=len(models))
            reused = chunk.reused
            spent.update(
                {m.name: int(n) - reused.get(m.name, 0) for m, n in zip(models, run, strict=True) if n}
            )
            account.reused_rows += sum(reused.values())
            account.waste(models[candidate[chunk.start]], chunk.wasted)
        for failed in part.failed():
            account.failed_rows += len(failed.rows)
            account.add_seconds(failed.seconds)
            account.waste(models[candidate[failed.rows[0]]], failed.wasted)
        for start, rows in part.interrupted().items():
            account.waste(models[candidate[start]], rows)
        account.forwards.update(spent)
        if purpose == "screening":
            account.screening_forwards.update(spent)
        if purpose == "voting":
            account.voting_forwards.update(spent)
    for model, known in zip(round_.candidates, round_.known, strict=True):
        if known is not None:
            account.forwards[model.name] += len(known.ids)
            account.fit_forwards[model.name] += len(known.ids)
            account.waste(model, known.wasted)
            account.model_seconds[model.name] += known.seconds
    return account


def _learning(slices: Slices, record: RoundRecord) -> dict[str, Any] | None:
    if record.learning is None:
        return None
    later = [part.record(SliceRecord) for name, part in slices.items() if name != FIRST]
    noted = [record.learning, *(r.learning for r in later if r is not None and r.learning is not None)]
    probe = slices[FIRST].order().num_rows if record.learning.ranked_by == "random" else 0
    return {
        "probe": probe,
        "slices": len(noted),
        "learned": sum(item.ranked_by == "learned" for item in noted),
        **to_builtins(noted[-1]),
    }


def failed_rows(round_: Round, slices: Slices) -> pa.Table:
    """List the rows of a round that failed: columns id, model and reason."""
    parts = [part.failures([m.name for m in _models(round_, name)]) for name, part in slices.items()]
    return pa.concat_tables(parts)


def _changed(round_: Round, slices: Slices) -> int:
    """Count the rows of changed samples that were run."""
    count = 0
    for part in updates(slices):
        order = part.order()
        stale = round_.changed(order["model"].to_numpy())
        count += int((stale & part.finished_rows(len(stale))).sum())
    return count


def _shown(failed: pa.Table) -> tuple[dict[str, Any], ...]:
    """Return the first rows that failed, with reasons cut short: they are kept in the cache's history."""
    rows = failed.slice(0, SHOWN).to_pylist()
    return tuple({**row, "reason": row["reason"][:REASON]} for row in rows)


def _models(round_: Round, name: str) -> Sequence[Model]:
    correction = round_.correction
    return round_.candidates if purpose_of(name) == "update" or correction is None else correction.given


def _metadata(round_: Round, account: Account) -> Metadata:
    metadata = replace(round_.cache.metadata, round=round_.cache.metadata.round + 1)
    for model in round_.candidates:
        info = ModelInfo(model.name, model.digest, account.per_forward(model.name), classes=model.knows)
        if model.cost is not None:
            info = ModelInfo(model.name, model.digest, model.cost, model.unit, classes=model.knows)
        metadata = metadata.with_model(info)
    if round_.scorer.kept is not None:
        metadata = metadata.with_ranker(round_.scorer.kept)
    return metadata


def _all_rows(
    round_: Round, slices: Slices, pools: Pooler, predicted: Predicted | None
) -> Iterator[tuple[Rows, int, Change]]:
    """Yield the rows to store, how many of them were right before, and what changes them."""
    for rows, right in _updated_rows(round_, slices, pools):
        yield rows, right, "update"
    if predicted is not None:
        for rows, right in _predicted_rows(round_, pools, predicted):
            yield rows, right, "prediction"
    if round_.correction is None:
        return
    for part, outputs, held in corrected_rows(round_, slices, pools):
        inputs = _inputs(round_, part["id"].combine_chunks(), None)
        yield _rows(part, outputs, held, pools, inputs), int(part["right"].to_numpy().sum()), "correction"


def _predicted_rows(round_: Round, pools: Pooler, predicted: Predicted) -> Iterator[tuple[Rows, int]]:
    """Yield rows that keep their outputs, and answer as is predicted."""
    kind = round_.cache.metadata.kind
    step = rows_per_chunk(width_of(kind), PREDICTED_ROWS)
    for start in range(0, len(predicted.positions), step):
        rows = round_.cache.take(predicted.positions[start : start + step])
        at = pc.index_in(rows.ids, value_set=predicted.ids).to_numpy(zero_copy_only=False).astype(np.int64)
        classes = predicted.classes[at]
        none = classes < 0
        found = Imputations(
            classes,
            np.where(none, np.nan, predicted.probabilities[at]).astype(np.float32),
            np.where(none, -1, pools.metadata.round),
        )
        yield replace(rows, imputations=found), int(right_rows(rows, kind).sum())


def _updated_rows(round_: Round, slices: Slices, pools: Pooler) -> Iterator[tuple[Rows, int]]:
    """Yield the staged rows, then those that fit ran."""
    for staging in updates(slices):
        order = staging.order()
        for chunk in staging.chunks():
            part = order.slice(chunk.start, len(chunk))
            old = None
            if round_.objective == "accuracy":
                old = held_by(round_.cache, part)
            outputs, held = _joined(
                round_, pools, old, new=chunk.outputs, candidate=_candidates(order, chunk)
            )
            inputs = _inputs(round_, part["id"].combine_chunks(), chunk.inputs)
            yield _rows(part, outputs, held, pools, inputs), int(part["right"].to_numpy().sum())
    known = _known(round_)
    if known is None:
        return
    old_rows, new, candidate = known
    old = Held(old_rows.ids, old_rows.outputs, old_rows.models)
    outputs, held = _joined(round_, pools, old, new=new, candidate=candidate)
    score = round_.benefits(old_rows, tie_keys(old_rows.ids, round_.seed)).max(axis=1)
    part = pa.table({"id": old_rows.ids, "label": old_rows.labels, "score": score})
    right = right_rows(old_rows, round_.cache.metadata.kind)
    yield _rows(part, outputs, held, pools, _inputs(round_, old_rows.ids, None)), int(right.sum())


def _known(round_: Round) -> tuple[Rows, Outputs, Integers] | None:
    """Return the rows that fit ran: as the cache holds them, their new outputs and whose they are."""
    chosen = round_.known_rows()
    if not chosen:
        return None
    old = round_.cache.get(list(chosen))
    picks = [chosen[name] for name in old.ids.to_pylist()]
    return old, round_.outputs_of(picks), np.array([candidate for candidate, _ in picks], dtype=np.int64)


def _joined(
    round_: Round, pools: Pooler, old: Held | None, *, new: Outputs, candidate: Integers
) -> tuple[Outputs, Integers]:
    """Return what rows hold after the update: the new outputs, or pooled with the old ones."""
    if round_.objective == "consistency" or old is None:
        index = [pools.metadata.model_index(name) for name in round_.names]
        return new, np.array(index, dtype=np.int64)[candidate]
    probs, models = np.empty_like(new), np.empty(len(new), dtype=np.int64)
    stale = round_.changed(old.models)
    for number, name in enumerate(round_.names):
        mine = (candidate == number) & ~stale
        if mine.any():
            probs[mine], models[mine] = pools.join(old.take(mine), new[mine], name)
        mine = (candidate == number) & stale  # what they hold is of another sample
        probs[mine], models[mine] = new[mine], pools.metadata.model_index(name) or 0
    return probs, models


def _inputs(round_: Round, ids: pa.Array, noted: npt.NDArray[np.uint64] | None) -> UInt64 | None:
    """Return the fingerprints of the samples of rows, (m,), where the cache keeps them.

    Those that were noted while the models ran are of the values.
    """
    by = round_.cache.metadata.fingerprint
    if by is None:
        return None
    if by == VALUE and noted is not None:
        return noted
    if round_.fingerprints is None:
        return np.zeros(len(ids), dtype=np.uint64)
    return round_.fingerprints.of(ids)


def _rows(part: pa.Table, outputs: Outputs, held: Integers, pools: Pooler, inputs: UInt64 | None) -> Rows:
    """Make rows of columns id, label and score, their outputs and what those are made of."""
    rounds = np.full(part.num_rows, pools.metadata.round, dtype=np.int64)
    # A row that no candidate could be run on was predicted to gain nothing.
    scores = np.maximum(part["score"].to_numpy().astype(np.float32), np.finfo(np.float32).min)
    return Rows(
        ids=part["id"].combine_chunks(),
        stored=outputs,
        labels=part["label"].to_numpy(),
        models=held,
        rounds=rounds,
        scores=scores,
        inputs=inputs,
    )


def _labelled(round_: Round, slices: Slices) -> dict[str, Labelled]:
    """Collect labelled rows of which both outputs are known, by model; nothing unless rows pool."""
    if round_.objective == "consistency":
        return {}
    found: dict[str, list[Labelled]] = {}
    known = _known(round_)
    if known is not None:
        old_rows, probs, candidate = known
        for number, name in enumerate(round_.names):
            at = spread(np.flatnonzero((candidate == number) & (old_rows.labels >= 0)))
            found.setdefault(name, []).append(
                Labelled(old_rows.probs[at], probs[at], old_rows.labels[at], old_rows.models[at])
            )
    for staging in updates(slices):
        order = staging.order()
        marked = np.flatnonzero((order["label"].to_numpy() >= 0) & staging.finished_rows(order.num_rows))
        for number, name in enumerate(round_.names):
            at = spread(marked[order["candidate"].to_numpy()[marked] == number])
            if len(at):
                part = order.take(pa.array(at))
                new = staging.outputs(at, round_.cache.metadata.kind)
                held = part["model"].to_numpy().astype(np.int64)
                old = stored_probs(round_.cache, part)
                found.setdefault(name, []).append(Labelled(old, new, part["label"].to_numpy(), held))
    if round_.correction is not None:
        for name, rows in labelled_alternatives(round_, slices).items():
            if name not in round_.names:
                found[name] = [rows]
    return {name: _together(parts) for name, parts in found.items()}


def _together(parts: list[Labelled]) -> Labelled:
    return Labelled(
        np.concatenate([part.old for part in parts]),
        np.concatenate([part.new for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.held for part in parts]),
    )


def _candidates(order: pa.Table, chunk: Chunk) -> npt.NDArray[np.int64]:
    part: npt.NDArray[np.int64] = order["candidate"].slice(chunk.start, len(chunk)).to_numpy()
    return part.astype(np.int64)


def _report(
    round_: Round, record: RoundRecord, account: Account, tally: _Tally, pools: Pooler
) -> RefreshReport:
    totals = record.totals
    labelled, right = totals.labelled, totals.right
    forwards = account.forwards.total()
    pooling = None
    if round_.objective == "accuracy":
        pooling = {name: _describe(pools.judgement(name)) for name in round_.names}
    return RefreshReport(
        round=pools.metadata.round,
        rows=totals.rows,
        refreshed=tally.rows,
        complete=True,
        account=account.to_dict(),
        share_of_forwards=forwards / totals.rows if totals.rows else 0.0,
        share_of_time=_share_of_time(round_, totals.rows, account),
        accuracy_before=right / labelled if labelled else None,
        accuracy=(right - tally.right_before + tally.right_after) / labelled if labelled else None,
        prediction=None,
        corrected=tally.corrected,
        pooling=pooling,
    )


def _describe(judged: Judgement) -> dict[str, float | None]:
    chosen = judged.pooling
    return {
        "old": chosen.old,
        "new": chosen.new,
        "pooled": judged.pooled,
        "replaced": judged.replaced,
        "rows": judged.rows,
    }


def _share_of_time(round_: Round, rows: int, account: Account) -> float | None:
    """Compare this round's seconds with what running the target on every row would take."""
    each: dict[str, float] = {}
    for model in round_.candidates:
        measured = account.per_forward(model.name) if model.needs_samples else None
        seconds = model.cost if model.cost is not None and model.unit == "seconds" else measured
        if seconds is not None:
            each[model.name] = seconds
    if any(name not in each for name in (*account.forwards, round_.target)):
        return None
    forwards = account.forwards.total()
    reading = account.seconds["reading"] / forwards if forwards else 0.0
    full = rows * (each[round_.target] + reading)
    overhead = sum(spent for phase, spent in account.seconds.items() if phase != "model")
    running = sum(count * each[name] for name, count in account.forwards.items())
    return (overhead + running) / full if full else None
