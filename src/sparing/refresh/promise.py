"""What a round promises of the cache, and what its audit certifies; `docs/promise.md` has the proofs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.data.columns import SampleColumns, open_columns
from sparing.data.samples import Samples
from sparing.errors import BudgetError, InputError
from sparing.numerics.certificate import certified_cut
from sparing.outputs import Classes, OutputKind
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
class ClassPromise:
    """What must hold of one class.

    Attributes:
        measure: "precision" or "recall".
        label: the class.
        name: its name.
        share: the least precision or recall, exact.
    """

    measure: Literal["precision", "recall"]
    label: int
    name: str
    share: Fraction

    def __str__(self) -> str:
        return f"{_percent(self.share)} {self.measure} of {self.name}"


@dataclass(frozen=True)
class Promise:
    """What must hold after a round, all of it at once.

    Attributes:
        consistency: the least share of rows that agree with a full re-run of the target, exact; None when
            only classes are promised something of.
        confidence: the least probability of that, over the draw of the audited rows.
        by: the name of the groups in each of which it must hold, all at once; None for the cache as a whole.
        columns: where the groups' values are; None for the cached class.
    """

    consistency: Fraction | None
    confidence: Fraction
    by: str | None = None
    columns: SampleColumns | None = None
    classes: tuple[ClassPromise, ...] = ()

    @property
    def alpha(self) -> float:
        """The accepted probability of a miss."""
        return float(1 - self.confidence)

    def __str__(self) -> str:
        each = "" if self.by is None else f" in each {self.by}"
        whole = [] if self.consistency is None else [f"{_percent(self.consistency)} consistency{each}"]
        promised = ", ".join([*whole, *map(str, self.classes)])
        return f"{promised} at {_percent(self.confidence)} confidence"

    def describe(self) -> dict[str, Any]:
        """Return what decides the outcome, for digests."""
        return {
            "consistency": str(self.consistency),
            "confidence": str(self.confidence),
            "by": self.by,
            "columns": None if self.columns is None else self.columns.digest,
            "classes": [str(each) for each in self.classes],
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
    *,
    names: Sequence[str],
    columns: SampleColumns | None,
    samples: Samples | None,
    kind: OutputKind,
) -> Promise | None:
    """Check what a round is asked to promise; None when a budget decides.

    Raises:
        BudgetError: neither a budget nor a promise.
        InputError: shares that cannot be read, or options that do not go together.
    """
    if options.consistency is None and not (options.precision or options.recall):
        if options.budget is None:
            raise BudgetError(
                'say what the round may spend (a budget such as "50%"), or what must hold afterwards '
                '(a consistency such as "95%")'
            )
        if options.by is not None:
            raise InputError("groups are those of a promise: give a consistency, too, or leave out 'by'")
        return None
    if options.consistency is None and options.by is not None:
        raise InputError("groups are those of a consistency: give it, or leave out 'by'")
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
        None if options.consistency is None else _share(options.consistency, "consistency"),
        _share(options.confidence, "confidence"),
        options.by,
        grouping,
        classes=tuple(_class_promises(options, kind)),
    )


def _class_promises(options: RefreshOptions, kind: OutputKind) -> Iterator[ClassPromise]:
    """Read the precision and the recall that are promised, by class name or number."""
    if not isinstance(kind, Classes):
        return
    known = [str(i) for i in range(kind.n_classes)] if kind.classes is None else list(kind.classes)
    asked: tuple[tuple[Literal["precision", "recall"], Mapping[str, str | float]], ...]
    asked = (("precision", options.precision), ("recall", options.recall))
    for measure, shares in asked:
        for name, share in shares.items():
            if str(name) not in known:
                raise InputError(f"{measure} is promised of {name!r}, which is no class of the cache")
            yield ClassPromise(measure, known.index(str(name)), str(name), _share(share, measure))


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
        found: rows of the promised class that are known by now, in the whole cache; 0 without a class.
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
    found: int = 0

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

    def to_run(self, allowed: int) -> Integers:
        """Return which rows are to be run next, as places in the order, ascending; none when it is kept.

        Args:
            allowed: how many may be wrong, at least 0; see `allowed_now`.
        """
        cut = self.cut
        places = np.flatnonzero(~self.tried)
        missing = places[places < cut]
        wrong = self.at_most_wrong()
        if len(missing) or wrong is None or wrong <= allowed:
            return missing
        # The audit found fewer wrong rows than planned: a few more rows make up for it.
        return places[: 4 * (wrong - allowed)]


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
    answer = frozen["answer"].to_numpy()
    group = frozen["group"].to_numpy()
    audited = frozen["audited"].to_numpy(zero_copy_only=False).astype(bool)
    score = frozen["score"].to_numpy().astype(np.float32)
    groups = []
    for number, promised in enumerate(promise.groups):
        mine = np.flatnonzero(group == number)
        if promised.measure == "recall":
            wrong = (known[mine] == promised.label) | (known[mine] < 0)
        else:
            wrong = known[mine] != answer[mine]
        rows = AuditedRows(
            promised,
            position[mine],
            score=score[mine],
            audited=audited[mine],
            tried=was_tried[mine],
            right=known[mine] >= 0,
            wrong=wrong & was_tried[mine],
            alpha=promise.alpha,
            found=promised.known + int((new == promised.label).sum()) if promised.label >= 0 else 0,
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


def allowed_now(each: AuditedRows, groups: Sequence[AuditedRows]) -> int:
    """Count how many rows of a group may be wrong for its promise to hold by what is known now.

    Args:
        each: the group.
        groups: all groups of the round: what a recall may lose depends on what the class keeps.
    """
    promised = each.promised
    if promised.measure == "consistency":
        return max(promised.allowed, 0)
    if not promised.share:
        return len(each.position)
    share = Fraction(promised.share)
    if promised.measure == "precision":
        return max(math.floor((1 - share) * _holding(each)) - promised.failed, 0)
    return max(math.floor((1 - share) / share * _kept(each, groups)) - promised.failed, 0)


def _holding(each: AuditedRows) -> int:
    """Count the rows that hold the class of a group now: those known to be of it, and those not run."""
    return each.found + int((~each.right).sum()) + each.promised.failed


def _kept(each: AuditedRows, groups: Sequence[AuditedRows]) -> int:
    """Count the rows of a class that surely hold it: known ones, and those not run less the wrong ones."""
    for other in groups:
        if other.promised.measure == "precision" and other.promised.label == each.promised.label:
            wrong = other.at_most_wrong()
            surely = 0 if wrong is None else _holding(other) - other.promised.failed - wrong
            return max(each.found, surely)
    return each.found


def certified(each: AuditedRows, groups: Sequence[AuditedRows]) -> Fraction | None:
    """Return what is certified of a group by now: its consistency, precision or recall; None before it is."""
    wrong, promised = each.at_most_wrong(), each.promised
    if wrong is None:
        return None
    if promised.measure == "consistency":
        return 1 - Fraction(wrong + promised.failed, max(promised.rows, 1))
    if promised.measure == "precision":
        return 1 - Fraction(wrong + promised.failed, max(_holding(each), 1))
    kept, lost = _kept(each, groups), wrong + promised.failed
    return Fraction(kept, kept + lost) if lost else Fraction(1)


def certificate(promise: Promise, slices: Slices) -> dict[str, Any]:
    """Say what is certified of the cache once a round's slices are stored.

    Returns:
        "consistency" and "confidence" as asked for, "by", "certified" (the share of rows that agree with a
        full re-run at least, in the worst group; None when the round ended before its audit, or when none was
        asked for), "kept" (whether everything is certified that was asked for), "audited" (rows), under
        "groups" the same by group, where there are several, and under "classes" precision and recall.
    """
    found = audited_rows(slices) or []
    shares = [(each.promised, certified(each, found), int(each.audited.sum())) for each in found]
    whole = [share for promised, share, _ in shares if promised.measure == "consistency"]
    known = [share for share in whole if share is not None]
    worst = min(known) if known and len(known) == len(whole) else None
    kept = promise.consistency is None or (worst is not None and worst >= promise.consistency)
    classes = []
    for each in promise.classes:
        share = next((s for p, s, _ in shares if (p.measure, p.label) == (each.measure, each.label)), None)
        kept = kept and share is not None and share >= each.share
        classes.append(
            {
                "class": each.name,
                "measure": each.measure,
                "asked": float(each.share),
                "certified": None if share is None else float(share),
            }
        )
    result: dict[str, Any] = {
        "consistency": None if promise.consistency is None else float(promise.consistency),
        "confidence": float(promise.confidence),
        "by": promise.by,
        "certified": None if worst is None else float(worst),
        "kept": kept,
        "audited": sum(audited for _, _, audited in shares),
    }
    if promise.by is not None:
        result["groups"] = {
            promised.name: {
                "certified": None if share is None else float(share),
                "rows": promised.rows,
                "audited": audited,
            }
            for promised, share, audited in shares
            if promised.measure == "consistency"
        }
    if classes:
        result["classes"] = classes
    return result
