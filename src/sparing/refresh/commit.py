"""The end of a round: what was computed becomes rows, with the account of what it took, in one version."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.account import Account
from sparing.cache import Cache, ModelInfo, Rows
from sparing.cache.metadata import Metadata
from sparing.numerics.selection import tie_keys
from sparing.refresh.correction.settling import corrected_rows, count_corrections, labelled_alternatives
from sparing.refresh.evidence import Prediction
from sparing.refresh.pooling.exponents import Judgement
from sparing.refresh.pooling.pools import Labelled, Pools, spread, stored_probs
from sparing.refresh.round import Round
from sparing.refresh.staging import Chunk, Staging

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


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


def commit_round(round_: Round, staging: Staging, staged: dict[str, Any], complete: bool) -> RefreshReport:
    """Make everything that is staged visible as one round.

    Args:
        round_: what was asked for.
        staging: what was computed.
        staged: the staged request.
        complete: whether everything planned was run.

    Returns:
        The report.

    Raises:
        CacheError: the disk would not take it; everything stays staged.
    """
    cache = round_.cache
    account = _account(round_, staging, staged)
    run = sum(len(staging.read(start).probs) for start in staging.finished())
    totals = staged["totals"]
    prediction = round_.predict(run, totals["competing"], totals["rows"])
    if run == 0 and not round_.known_rows() and round_.correction is None:
        # Nothing to store: a round that changes nothing would only make history harder to read.
        pools = Pools(cache.metadata, {}, round_.seed)
        return _report(round_, pools, staging, staged, complete, account, _Tally(cache), prediction)
    pools = Pools(_metadata(round_, account), _labelled(round_, staging), round_.seed)
    tally = _Tally(cache)
    started = perf_counter()

    def record(bytes_written: int) -> dict[str, Any]:
        account.seconds["writing"] += perf_counter() - started
        account.bytes_written = bytes_written
        report = _report(round_, pools, staging, staged, complete, account, tally, prediction)
        return {
            "op": "refresh",
            "request": staged["digest"],
            "what": staged["what"],
            "scorer": staged["scorer"],
            "digests": staged["models"],
            "target": staged["target"],
            "seed": staged["seed"],
            "report": asdict(report),
        }

    cache.refresh_rows(tally.counting(_all_rows(round_, staging, pools)), lambda: pools.metadata, record)
    return report_of(cache.metadata.history[-1])


def report_of(entry: dict[str, Any]) -> RefreshReport:
    """Read the report of a round from the cache's history."""
    values = dict(entry["report"])
    if values["prediction"] is not None:
        values["prediction"] = Prediction(**values["prediction"])
    return RefreshReport(**values)


class _Tally:
    """Counts what refreshing changes while the rows go by."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.rows = self.corrected = self.right_before = self.right_after = 0

    def counting(self, batches: Iterator[tuple[Rows, int, bool]]) -> Iterator[Rows]:
        for rows, right_before, corrected in batches:
            self.rows += 0 if corrected else len(rows)
            self.corrected += len(rows) if corrected else 0
            self.right_before += right_before
            self.right_after += int((self.cache.as_stored(rows.probs).argmax(axis=1) == rows.labels).sum())
            yield rows


def _account(round_: Round, staging: Staging, staged: dict[str, Any]) -> Account:
    account = Account(rows_scored=staged["account"]["rows_scored"])
    account.seconds.update(staged["account"]["seconds"])
    order = staging.order()
    for start in staging.finished():
        chunk = staging.read(start)
        _add_seconds(account, chunk)
        run = np.bincount(_candidates(order, chunk), minlength=len(round_.candidates))
        account.forwards.update({name: int(n) for name, n in zip(round_.names, run, strict=True) if n})
        account.wasted_forwards += (chunk.attempts - 1) * len(chunk.probs)
    account.wasted_forwards += _interrupted(staging, staged["chunk_rows"])
    if round_.correction is not None:
        for kind, (part, names) in count_corrections(round_, staging).items():
            counter = account.screening_forwards if kind == "screening" else account.voting_forwards
            chosen = part.order()
            for start in part.finished():
                chunk = part.read(start)
                _add_seconds(account, chunk)
                counter.update(Counter(names[_candidates(chosen, chunk)].tolist()))
                account.wasted_forwards += (chunk.attempts - 1) * len(chunk.probs)
            account.forwards.update(counter)
            request = part.request()
            if request is not None:
                account.wasted_forwards += _interrupted(part, request["chunk_rows"])
    for model, known in zip(round_.candidates, round_.known, strict=True):
        if known is not None:
            account.forwards[model.name] += len(known.ids)
            account.fit_forwards[model.name] += len(known.ids)
            account.wasted_forwards += known.wasted
            account.model_seconds[model.name] += known.seconds
    return account


def _add_seconds(account: Account, chunk: Chunk) -> None:
    for phase, seconds in chunk.seconds.items():
        kind, _, name = phase.partition(":")
        account.seconds[kind] += seconds
        if name:
            account.model_seconds[name] += seconds


def _interrupted(staging: Staging, chunk_rows: int) -> int:
    """Count the forwards of chunks that were begun and not finished."""
    total = staging.order().num_rows
    return sum(attempts * min(chunk_rows, total - start) for start, attempts in staging.interrupted().items())


def _metadata(round_: Round, account: Account) -> Metadata:
    metadata = replace(round_.cache.metadata, round=round_.cache.metadata.round + 1)
    for model in round_.candidates:
        info = ModelInfo(model.name, model.digest, account.per_forward(model.name))
        if model.cost is not None:
            info = ModelInfo(model.name, model.digest, model.cost, model.unit)
        metadata = metadata.with_model(info)
    if round_.scorer.name in ("router", "change") and round_.router is not None:
        metadata = metadata.with_router(round_.router.to_bytes())
    return metadata


def _all_rows(round_: Round, staging: Staging, pools: Pools) -> Iterator[tuple[Rows, int, bool]]:
    """Yield the rows to store, how many of them were right before, and whether correction settled them."""
    for rows, right in _updated_rows(round_, staging, pools):
        yield rows, right, False
    if round_.correction is None:
        return
    for part, probs, held in corrected_rows(round_, staging, pools):
        rows = _rows(part["id"].combine_chunks(), probs, part["label"], held, part["score"], pools)
        yield rows, int(part["right"].to_numpy().sum()), True


def _updated_rows(round_: Round, staging: Staging, pools: Pools) -> Iterator[tuple[Rows, int]]:
    """Yield the staged rows, then those that fit ran."""
    order = staging.order()
    for start in staging.finished():
        chunk = staging.read(start)
        part = order.slice(start, len(chunk.probs))
        old = stored_probs(round_.cache, part) if round_.objective == "accuracy" else None
        probs, held = _joined(round_, pools, old, part["model"], chunk.probs, _candidates(order, chunk))
        rows = _rows(part["id"].combine_chunks(), probs, part["label"], held, part["score"], pools)
        yield rows, int(part["right"].to_numpy().sum())
    known = _known(round_)
    if known is None:
        return
    old_rows, probs, candidate = known
    probs, held = _joined(round_, pools, old_rows.probs, old_rows.models, probs, candidate)
    score = round_.benefits(old_rows, tie_keys(old_rows.ids, round_.seed)).max(axis=1)
    rows = _rows(old_rows.ids, probs, old_rows.labels, held, score, pools)
    yield rows, int((old_rows.encoded.classes() == old_rows.labels).sum())


def _known(round_: Round) -> tuple[Rows, Floats, Integers] | None:
    """Give the rows that fit ran: as the cache holds them, their new distributions and whose they are."""
    chosen = round_.known_rows()
    if not chosen:
        return None
    old = round_.cache.get(pa.array(list(chosen), type=round_.cache.id_type))
    picks = [chosen[name] for name in old.ids.to_pylist()]
    known = [item.probs if item is not None else None for item in round_.known]
    probs = np.stack([known[candidate][position] for candidate, position in picks])  # type: ignore[index]
    return old, probs, np.array([candidate for candidate, _ in picks], dtype=np.int64)


def _joined(
    round_: Round, pools: Pools, old: Floats | None, held: Any, new: Floats, candidate: Integers
) -> tuple[Floats, Integers]:
    """Give what rows hold after the update: the new distributions, or pooled with the old ones."""
    if round_.objective == "consistency" or old is None:
        index = [pools.metadata.model_index(name) for name in round_.names]
        return new, np.array(index, dtype=np.int64)[candidate]
    probs, models = np.empty_like(new), np.empty(len(new), dtype=np.int64)
    for number, name in enumerate(round_.names):
        mine = candidate == number
        if mine.any():
            before = np.asarray(held).astype(np.int64)[mine]
            probs[mine], models[mine] = pools.join(old[mine], before, new[mine], name)
    return probs, models


def _rows(ids: pa.Array, probs: Floats, labels: Any, held: Integers, score: Any, pools: Pools) -> Rows:
    rounds = np.full(len(ids), pools.metadata.round, dtype=np.int64)
    # A row that no candidate could be run on was predicted to gain nothing.
    scores = np.maximum(np.asarray(score, dtype=np.float32), np.finfo(np.float32).min)
    return Rows(ids, probs, np.asarray(labels), held, rounds, scores)


def _labelled(round_: Round, staging: Staging) -> dict[str, Labelled]:
    """Collect labelled rows of which both distributions are known, by model; nothing unless rows pool."""
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
    order = staging.order()
    finished = sum(len(staging.read(start).probs) for start in staging.finished())
    marked = np.flatnonzero(order["label"].to_numpy()[:finished] >= 0)
    for number, name in enumerate(round_.names):
        at = spread(marked[order["candidate"].to_numpy()[marked] == number])
        if len(at):
            part = order.take(pa.array(at))
            new = staging.outputs(at, round_.cache.metadata.n_classes)
            held = part["model"].to_numpy().astype(np.int64)
            old = stored_probs(round_.cache, part)
            found.setdefault(name, []).append(Labelled(old, new, part["label"].to_numpy(), held))
    if round_.correction is not None:
        for name, rows in labelled_alternatives(round_, staging).items():
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
    part: npt.NDArray[np.int64] = order["candidate"].slice(chunk.start, len(chunk.probs)).to_numpy()
    return part.astype(np.int64)


def _report(
    round_: Round,
    pools: Pools,
    staging: Staging,
    staged: dict[str, Any],
    complete: bool,
    account: Account,
    tally: _Tally,
    prediction: Prediction | None,
) -> RefreshReport:
    totals = staged["totals"]
    labelled, right = totals["labelled"], totals["right"]
    forwards = account.forwards.total()
    pooling = None
    if round_.objective == "accuracy":
        pooling = {name: _describe(pools.judgement(name)) for name in round_.names}
    return RefreshReport(
        pools.metadata.round,
        totals["rows"],
        tally.rows,
        complete,
        account.to_dict(),
        forwards / totals["rows"] if totals["rows"] else 0.0,
        _share_of_time(round_, staged, account),
        right / labelled if labelled else None,
        (right - tally.right_before + tally.right_after) / labelled if labelled else None,
        prediction,
        0 if round_.correction is None else staging.table("screened").num_rows,
        tally.corrected,
        pooling,
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


def _share_of_time(round_: Round, staged: dict[str, Any], account: Account) -> float | None:
    """Compare this round's seconds with what running the target on every row would take."""
    each: dict[str, float] = {}
    for model in round_.candidates:
        measured = account.per_forward(model.name) if model.needs_samples else None
        seconds = model.cost if model.cost is not None and model.unit == "seconds" else measured
        if seconds is not None:
            each[model.name] = seconds
    if any(name not in each for name in (*account.forwards, staged["target"])):
        return None
    forwards = account.forwards.total()
    reading = account.seconds["reading"] / forwards if forwards else 0.0
    full = staged["totals"]["rows"] * (each[staged["target"]] + reading)
    overhead = sum(spent for phase, spent in account.seconds.items() if phase != "model")
    running = sum(count * each[name] for name, count in account.forwards.items())
    return (overhead + running) / full if full else None
