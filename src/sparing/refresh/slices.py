"""A round, slice by slice: plan a slice, run it, observe it, plan the next.

The staged slices are the only state. A planner sees nothing else, so after a kill it plans the same slices,
and the round ends in the same bits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal, Protocol

import pyarrow as pa

from sparing.models import Model
from sparing.refresh.predicted import Predicted
from sparing.refresh.records import RoundRecord, SliceRecord
from sparing.refresh.staging import Staging

Purpose = Literal["update", "screening", "voting"]
"""What the forwards of a slice are for, and counted as: the budgeted update, or a part of its correction."""

PURPOSES: tuple[Purpose, ...] = ("update", "screening", "voting")
FIRST = "update"

Slices = Mapping[str, Staging]
"""The staged slices of a round by name, in the order of their purposes, then of their names."""


@dataclass(frozen=True)
class SlicePlan:
    """What a slice is to run.

    Attributes:
        name: the first slice of a round is "update"; others are named after their purpose, with a number
            ("update-0001") where there are several.
        record: what a restart reads back.
        order: the rows to run, in order: columns id and candidate, and for an update what its commit needs
            (see `sparing.refresh.planning.order_rows`).
        tables: what else later slices or the commit need to know, by name.
    """

    name: str
    record: RoundRecord | SliceRecord
    order: pa.Table
    tables: Mapping[str, pa.Table] = field(default_factory=dict)


class Planner(Protocol):
    """Who decides what a round runs next."""

    def next(self, slices: Slices) -> SlicePlan | None:
        """Plan the next slice from what was run and observed so far; None when the round is complete.

        It must follow from the slices and from what the round was asked to do, and from nothing else.

        Args:
            slices: the slices so far, each of them finished.
        """

    def predicted(self, slices: Slices, *, observe: bool) -> Predicted | None:
        """Return what rows that were not run store; None where nothing is predicted.

        Args:
            slices: the slices of the round, as far as they were run.
            observe: whether those that no plan has seen yet are learned from.
        """

    def models(self, purpose: Purpose) -> Sequence[Model]:
        """Return the models that slices of a purpose run, in the order of their column `candidate`."""


def purpose_of(name: str) -> Purpose:
    """Return what the forwards of a slice are for."""
    return next(purpose for purpose in PURPOSES if name.partition("-")[0] == purpose)


def staged_slices(staging: Staging) -> Slices:
    """List the slices of a round that were begun."""
    if not staging.begun:
        return {}
    names = sorted(staging.names_inside(), key=lambda name: (PURPOSES.index(purpose_of(name)), name))
    return {FIRST: staging, **{name: staging.inside(name) for name in names}}


def updates(slices: Slices) -> list[Staging]:
    """List the slices of the budgeted update."""
    return [part for name, part in slices.items() if purpose_of(name) == "update"]


def run_slices(
    staging: Staging,
    planner: Planner,
    run: Callable[[Staging, Sequence[Model], int], bool],
    deadline: float | None = None,
) -> bool:
    """Plan and run the slices of a round, or what is left of them.

    Args:
        staging: the round's folder.
        planner: what decides.
        run: runs what is left of a slice by these models in chunks of so many rows; returns False when there
            is no time left.
        deadline: `time.monotonic` value at which no later slice may still be being planned.

    Returns:
        Whether the round is complete; False when the time ended first.
    """
    longest = 0.0
    while True:
        slices = staged_slices(staging)
        for name, part in slices.items():
            if not run(part, planner.models(purpose_of(name)), chunk_rows(name, part)):
                return False
        begun = monotonic()
        if slices and deadline is not None and begun + longest > deadline:
            return False
        plan = planner.next(slices)
        longest = max(longest, monotonic() - begun)
        if plan is None:
            return True
        where = staging if plan.name == FIRST else staging.inside(plan.name)
        where.begin(plan.record, plan.order, plan.tables)


def chunk_rows(name: str, part: Staging) -> int:
    """Return how many rows the chunks of a slice hold."""
    record = part.record(RoundRecord) if name == FIRST else part.record(SliceRecord)
    if record is None:
        raise AssertionError(f"the slice {name} was not begun")
    return record.chunk_rows
