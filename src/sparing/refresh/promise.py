"""What a round promises of the cache, and what its audit certifies; `docs/promise.md` has the proofs."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.data.columns import SampleColumns, open_columns
from sparing.data.samples import Samples
from sparing.errors import BudgetError, InputError
from sparing.numerics.certificate import certified_cut
from sparing.refresh.options import RefreshOptions
from sparing.refresh.records import PromisedRows, SlicePromise, SliceRecord
from sparing.refresh.slices import FIRST, Slices, purpose_of
from sparing.refresh.staging import Staging

Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

RANKED_BY = ("learned", "entropy")
CACHED_CLASS = "class"
MISSING = "(none)"
FROZEN = "frozen"
"""The table of the rows that were not run when the audit was drawn, kept with the slice that runs the audit:
columns group, position, score, answer (the class that the row holds if it is not run) and audited. Within a
group the rows come in the order in which they are to be run."""


@dataclass(frozen=True)
class Promise:
    """What must hold after a round.

    Attributes:
        consistency: the least share of rows that agree with a full re-run of the target, exact.
        confidence: the least probability of that, over the draw of the audited rows.
        by: the name of the groups in each of which it must hold, all at once; None for the cache as a whole.
        columns: where the groups' values are; None for the cached class.
    """

    consistency: Fraction
    confidence: Fraction
    by: str | None = None
    columns: SampleColumns | None = None

    @property
    def alpha(self) -> float:
        """The accepted probability of a miss."""
        return float(1 - self.confidence)

    def __str__(self) -> str:
        each = "" if self.by is None else f" in each {self.by}"
        return f"{_percent(self.consistency)} consistency{each} at {_percent(self.confidence)} confidence"

    def describe(self) -> dict[str, Any]:
        """Return what decides the outcome, for digests."""
        return {
            "consistency": str(self.consistency),
            "confidence": str(self.confidence),
            "by": self.by,
            "columns": None if self.columns is None else self.columns.digest,
        }

    def groups(self, ids: pa.Array, cached: Integers, classes: Sequence[str] | None) -> list[str]:
        """Return which group each of m rows is in, by id and cached class (m,)."""
        if self.by is None:
            return [""] * len(ids)
        if self.columns is None:
            return [str(each) if classes is None else classes[each] for each in cached.tolist()]
        values = self.columns.read(ids)[self.by]
        if isinstance(values, np.ndarray):
            values = [None if value != value else f"{value:g}" for value in values.tolist()]
        return [MISSING if value is None else str(value) for value in values]


def prepare_promise(
    options: RefreshOptions,
    scorer: str,
    names: Sequence[str],
    columns: SampleColumns | None,
    samples: Samples | None,
) -> Promise | None:
    """Check what a round is asked to promise; None when a budget decides.

    Raises:
        BudgetError: neither a budget nor a promise.
        InputError: shares that cannot be read, or options that do not go together.
    """
    if options.consistency is None:
        if options.budget is None:
            raise BudgetError(
                'say what the round may spend (a budget such as "50%"), or what must hold afterwards '
                '(a consistency such as "95%")'
            )
        if options.by is not None:
            raise InputError("groups are those of a promise: give a consistency, too, or leave out 'by'")
        return None
    if len(names) > 1:
        raise InputError(
            f"a promise is about a full re-run of one model, but there are {len(names)} candidates "
            f"({', '.join(names)}): give one"
        )
    if options.objective != "consistency" or options.correction is not None or options.only_positive:
        raise InputError(
            "a promise of consistency stores what the model answers, and runs what it takes: leave out "
            "the objective accuracy, correction and only-positive"
        )
    if scorer not in RANKED_BY:
        raise InputError(f"under a promise rows are ranked by {' or '.join(RANKED_BY)}, not by {scorer!r}")
    grouping = None
    if options.by is not None and options.by != CACHED_CLASS:
        known = columns is not None and options.by in columns.kinds
        grouping = columns if known else open_columns([options.by], samples)
        if grouping is not None and grouping.kinds[options.by] == "vector":
            raise InputError(f"the column {options.by!r} holds vectors: rows cannot be grouped by it")
    return Promise(
        _share(options.consistency, "consistency"),
        _share(options.confidence, "confidence"),
        options.by,
        grouping,
    )


def _share(given: str | float, what: str) -> Fraction:
    """Read a share below 1, such as "95%" or 0.95, exactly."""
    text = str(given).strip()
    try:
        value = Fraction(text[:-1].strip()) / 100 if text.endswith("%") else Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"the {what} {given!r} cannot be read: write a share such as 95% or 0.95") from None
    if not 0 < value < 1:
        more = ": a full re-run is --budget 100%" if value == 1 and what == "consistency" else ""
        raise InputError(f"the {what} must be above 0 and below 100%, not {given}{more}")
    return value


def _percent(value: Fraction) -> str:
    return f"{float(value) * 100:g}%"


@dataclass(frozen=True)
class AuditedRows:
    """Rows that a promise holds for, in the order in which they are run, and what was found so far.

    Attributes:
        promised: what was decided before the audit.
        position: shape (N,), in the order of the cache's scan.
        score: shape (N,).
        audited: shape (N,), whether a row was drawn.
        tried: shape (N,), whether it was run by now, or failed.
        right: shape (N,), whether it was run by now, so that the cache agrees.
        wrong: shape (N,), whether it was tried, and would have been wrong; rows that failed would have been.
        alpha: the accepted probability of a miss.
    """

    promised: PromisedRows
    position: Integers
    score: npt.NDArray[np.float32]
    audited: Bools
    tried: Bools
    right: Bools
    wrong: Bools
    alpha: float

    @cached_property
    def cut(self) -> int:
        """Up to where all rows must be run, by the audit; ask once every audited row was tried."""
        drawn = np.flatnonzero(self.audited)
        return certified_cut(drawn, self.wrong[drawn], len(self.audited), self.promised.limit, self.alpha)

    def at_most_wrong(self) -> int | None:
        """Count the rows that may be wrong now, with the stated confidence; None before the audit is done."""
        if not self.tried[self.audited].all():
            return None
        cut = self.cut
        after = np.arange(len(self.audited)) >= cut
        repaired = int((after & self.right & self.wrong).sum())
        unknown = int((after & ~self.right).sum())
        before = int((~after & ~self.right).sum())
        return min(max(self.promised.limit - repaired, 0), unknown) + before

    def to_run(self) -> Integers:
        """Return which rows are to be run next, as places in the order, ascending; none when it is kept."""
        cut = self.cut
        places = np.flatnonzero(~self.tried)
        missing = places[places < cut]
        wrong = self.at_most_wrong()
        if len(missing) or wrong is None or wrong <= max(self.promised.allowed, 0):
            return missing
        # The audit found fewer wrong rows than planned: a few more rows make up for it.
        return places[: 4 * (wrong - max(self.promised.allowed, 0))]


def find_audit(slices: Slices) -> tuple[str, SlicePromise] | None:
    """Find the slice that runs the audited rows, and what they are to certify; None before it was planned."""
    for name, part in slices.items():
        record = None if name == FIRST else part.record(SliceRecord)
        if record is not None and record.promise is not None:
            return name, record.promise
    return None


def audited_rows(slices: Slices) -> list[AuditedRows] | None:
    """Read back what the audit of a round has shown so far, by group; None before it was planned."""
    found = find_audit(slices)
    if found is None:
        return None
    audit, promise = found
    frozen = slices[audit].table(FROZEN)
    position = frozen["position"].to_numpy().astype(np.int64)
    size = int(position.max(initial=-1)) + 1
    tried, new = np.zeros(size, dtype=bool), np.full(size, -1, dtype=np.int64)
    for part in (part for name, part in slices.items() if name >= audit and purpose_of(name) == "update"):
        at, was_tried, ran, classes = outcomes(part)
        tried[at[was_tried]] = True
        new[at[ran]] = classes
    known, was_tried = new[position], tried[position]
    wrong = was_tried & (known != frozen["answer"].to_numpy())
    group = frozen["group"].to_numpy()
    audited = frozen["audited"].to_numpy(zero_copy_only=False).astype(bool)
    score = frozen["score"].to_numpy().astype(np.float32)
    groups = []
    for number, promised in enumerate(promise.groups):
        mine = np.flatnonzero(group == number)
        rows = AuditedRows(
            promised,
            position[mine],
            score=score[mine],
            audited=audited[mine],
            tried=was_tried[mine],
            right=known[mine] >= 0,
            wrong=wrong[mine],
            alpha=promise.alpha,
        )
        groups.append(rows)
    return groups


def outcomes(part: Staging) -> tuple[Integers, Bools, Bools, Integers]:
    """Read what a slice found: positions (k,), which were tried (k,) and run (k,), and their classes."""
    position = part.order()["position"].to_numpy().astype(np.int64)
    tried = np.zeros(len(position), dtype=bool)
    for start, end in part.tried():
        tried[start:end] = True
    new = [chunk.outputs.argmax(axis=1).astype(np.int64) for chunk in part.chunks()]
    return position, tried, part.finished_rows(len(position)), np.concatenate([np.zeros(0, np.int64), *new])


def certificate(promise: Promise, slices: Slices) -> dict[str, Any]:
    """Say what is certified of the cache once a round's slices are stored.

    Returns:
        "consistency" and "confidence" as asked for, "by", "certified" (the share of rows that agree with a
        full re-run at least, in the worst group; None when the round ended before its audit), "kept" (whether
        that is as much as was asked for), "audited" (rows), and under "groups" the same by group, where there
        are several.
    """
    found = audited_rows(slices)
    groups = {}
    for each in found or ():
        wrong, rows = each.at_most_wrong(), each.promised.rows
        certified = None if wrong is None else 1 - Fraction(wrong + each.promised.failed, max(rows, 1))
        groups[each.promised.name] = (certified, rows, int(each.audited.sum()))
    shares = [certified for certified, _, _ in groups.values()]
    worst = (
        None
        if not shares or any(share is None for share in shares)
        else min(s for s in shares if s is not None)
    )
    result: dict[str, Any] = {
        "consistency": float(promise.consistency),
        "confidence": float(promise.confidence),
        "by": promise.by,
        "certified": None if worst is None else float(worst),
        "kept": worst is not None and worst >= promise.consistency,
        "audited": sum(audited for _, _, audited in groups.values()),
    }
    if promise.by is not None:
        result["groups"] = {
            name: {
                "certified": None if share is None else float(share),
                "rows": rows,
                "audited": audited,
            }
            for name, (share, rows, audited) in groups.items()
        }
    return result
