"""The end of a round: what was computed becomes rows, with the account of what it took, in one version."""

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
from sparing.refresh.evidence import Prediction
from sparing.refresh.round import Round
from sparing.refresh.staging import Chunk, Staging
from sparing.selection import tie_keys


@dataclass(frozen=True)
class Report:
    """What a round did.

    Attributes:
        round: the round that was committed; the current one when there was nothing to store.
        rows: rows of the cache.
        refreshed: rows that got a new distribution.
        complete: whether everything planned was run; False after a deadline or `finish`.
        account: what was spent.
        share_of_forwards: forwards as a share of a full re-run's.
        share_of_time: seconds of this round as a share of a full re-run's, estimated from the measured
            seconds per forward; None when nothing was run.
        accuracy_before: accuracy over labelled rows before the round; None without labels.
        accuracy: the same after it.
        prediction: what held-out rows said of consistency; None when there are none.
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


def commit_round(round_: Round, staging: Staging, staged: dict[str, Any], complete: bool) -> Report:
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
    if run == 0 and not round_.known_rows():
        # Nothing to store: a round that changes nothing would only make history harder to read.
        return _report(cache.metadata.round, round_, staged, complete, account, _Tally(cache), prediction)
    metadata = _metadata(round_, account)
    tally = _Tally(cache)
    started = perf_counter()

    def record(bytes_written: int) -> dict[str, Any]:
        account.seconds["writing"] += perf_counter() - started
        account.bytes_written = bytes_written
        report = _report(metadata.round, round_, staged, complete, account, tally, prediction)
        return {
            "op": "refresh",
            "request": staged["digest"],
            "what": staged["what"],
            "scorer": staged["scorer"],
            "digests": staged["models"],
            "target": staged["target"],
            "report": asdict(report),
        }

    rows = tally.counting(_new_rows(round_, staging, metadata))
    cache.refresh_rows(rows, metadata, record)
    return report_of(cache.metadata.history[-1])


def report_of(entry: dict[str, Any]) -> Report:
    """Read the report of a round from the cache's history."""
    values = dict(entry["report"])
    if values["prediction"] is not None:
        values["prediction"] = Prediction(**values["prediction"])
    return Report(**values)


class _Tally:
    """Counts what refreshing changes while the rows go by."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.rows = self.right_before = self.right_after = 0

    def counting(self, batches: Iterator[tuple[Rows, int]]) -> Iterator[Rows]:
        for rows, right_before in batches:
            self.rows += len(rows)
            self.right_before += right_before
            self.right_after += int((self.cache.as_stored(rows.probs).argmax(axis=1) == rows.labels).sum())
            yield rows


def _account(round_: Round, staging: Staging, staged: dict[str, Any]) -> Account:
    account = Account(rows_scored=staged["account"]["rows_scored"])
    account.seconds.update(staged["account"]["seconds"])
    order = staging.order()
    for start in staging.finished():
        chunk = staging.read(start)
        for phase, seconds in chunk.seconds.items():
            kind, _, name = phase.partition(":")
            account.seconds[kind] += seconds
            if name:
                account.model_seconds[name] += seconds
        run = np.bincount(_candidates(order, chunk), minlength=len(round_.candidates))
        account.forwards.update({name: int(n) for name, n in zip(round_.names, run, strict=True) if n})
        account.wasted_forwards += (chunk.attempts - 1) * len(chunk.probs)
    account.wasted_forwards += sum(
        attempts * min(staged["chunk_rows"], order.num_rows - start)
        for start, attempts in staging.interrupted().items()
    )
    for model, known in zip(round_.candidates, round_.known, strict=True):
        if known is not None:
            account.forwards[model.name] += len(known.ids)
            account.fit_forwards[model.name] += len(known.ids)
            account.wasted_forwards += known.wasted
            account.model_seconds[model.name] += known.seconds
    return account


def _metadata(round_: Round, account: Account) -> Metadata:
    metadata = replace(round_.cache.metadata, round=round_.cache.metadata.round + 1)
    for model in round_.candidates:
        info = ModelInfo(model.name, model.digest, account.per_forward(model.name))
        if model.cost is not None:
            info = ModelInfo(model.name, model.digest, model.cost, model.unit)
        metadata = metadata.with_model(info)
    if round_.scorer.name == "router" and round_.router is not None:
        metadata = metadata.with_router(round_.router.to_bytes())
    return metadata


def _new_rows(round_: Round, staging: Staging, metadata: Metadata) -> Iterator[tuple[Rows, int]]:
    """Yield the rows to store and how many of them were right before, first the staged, then fit's."""
    order = staging.order()
    index = np.array([metadata.model_index(name) for name in round_.names], dtype=np.int64)
    for start in staging.finished():
        chunk = staging.read(start)
        part = order.slice(start, len(chunk.probs))
        rows = Rows(
            part["id"].combine_chunks(),
            chunk.probs,
            part["label"].to_numpy(),
            index[_candidates(order, chunk)],
            np.full(len(chunk.probs), metadata.round, dtype=np.int64),
            part["score"].to_numpy(),
        )
        yield rows, int(part["right"].to_numpy().sum())
    chosen = round_.known_rows()
    if not chosen:
        return
    old = round_.cache.get(pa.array(list(chosen), type=round_.cache.id_type))
    picks = [chosen[name] for name in old.ids.to_pylist()]
    known = [item.probs if item is not None else None for item in round_.known]
    probs = np.stack([known[candidate][position] for candidate, position in picks])  # type: ignore[index]
    benefits = round_.scorer.benefits(old.encoded, tie_keys(old.ids, round_.seed))
    rows = Rows(
        old.ids,
        probs,
        old.labels,
        index[[candidate for candidate, _ in picks]],
        np.full(len(picks), metadata.round, dtype=np.int64),
        benefits.max(axis=1).astype(np.float32),
    )
    yield rows, int((old.encoded.classes() == old.labels).sum())


def _candidates(order: pa.Table, chunk: Chunk) -> npt.NDArray[np.int64]:
    part: npt.NDArray[np.int64] = order["candidate"].slice(chunk.start, len(chunk.probs)).to_numpy()
    return part.astype(np.int64)


def _report(
    number: int,
    round_: Round,
    staged: dict[str, Any],
    complete: bool,
    account: Account,
    tally: _Tally,
    prediction: Prediction | None,
) -> Report:
    totals = staged["totals"]
    labelled, right = totals["labelled"], totals["right"]
    forwards = account.forwards.total()
    return Report(
        number,
        totals["rows"],
        tally.rows,
        complete,
        account.to_dict(),
        forwards / totals["rows"] if totals["rows"] else 0.0,
        _share_of_time(round_, staged, account),
        right / labelled if labelled else None,
        (right - tally.right_before + tally.right_after) / labelled if labelled else None,
        prediction,
    )


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
