"""Rows that fail: how many may before a job stops, and who is told of them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from sparing.budget import Budget
from sparing.errors import BudgetError, FailedRowsWarning, InputError, ModelError

OnFailures = Callable[[pa.Table], None]
"""Called when a job is done, if rows failed: columns id, model and reason, one row each."""

IN_A_ROW = 20
"""By default so many failures of a model in a row end a job: the model fails, not its rows."""

SHARE = 0.1
"""By default more than this share of failed rows, once `IN_A_ROW` have failed, ends a job."""


@dataclass(frozen=True)
class FailureLimit:
    """How many rows may fail before a job stops.

    Attributes:
        rows: at most so many; None for no such limit.
        share: at most this share of the rows tried so far, once `IN_A_ROW` have failed; None for no limit.
        in_a_row: fewer than so many failures of a model one after the other; None for no limit.
    """

    rows: int | None = None
    share: float | None = SHARE
    in_a_row: int | None = IN_A_ROW

    @classmethod
    def parse(cls, text: str | int | None) -> "FailureLimit":
        """Read what a user gives: a number of rows, or a share such as "5%"; None for the default.

        Raises:
            InputError: it is neither.
        """
        if text is None:
            return cls()
        given = str(text).strip()
        try:
            budget = Budget.parse(f"{given}rows" if given.isdecimal() else given)
        except BudgetError:
            budget = None
        if budget is None or budget.unit not in ("rows", "share"):
            raise InputError(f"max failures {text!r}: write a number of rows, or a share such as 5%")
        if budget.unit == "rows":
            return cls(rows=int(budget.amount), share=None, in_a_row=None)
        return cls(share=float(budget.amount), in_a_row=None)

    def __str__(self) -> str:
        if self.rows is not None:
            return f"{self.rows:,} rows"
        parts = [] if self.share is None else [f"{100 * self.share:g}% of the rows"]
        return ", ".join([*parts, *([] if self.in_a_row is None else [f"{self.in_a_row} in a row"])])


@dataclass
class Tally:
    """What has been tried so far.

    Attributes:
        limit: how many rows may fail.
        done: rows that succeeded.
        failed: rows that failed.
        running: failures of a model since the last success.
        reason: why the last row failed.
    """

    limit: FailureLimit = field(default_factory=FailureLimit)
    done: int = 0
    failed: int = 0
    running: int = 0
    reason: str = ""

    def succeed(self, rows: int) -> None:
        """Count rows that succeeded."""
        self.done += rows
        self.running = 0

    def fail(self, reason: str, *, of_model: bool) -> None:
        """Count a row that failed: because of the model, or because its sample cannot be read."""
        self.failed += 1
        self.running += of_model
        self.reason = reason

    @property
    def exceeded(self) -> bool:
        """Whether more has failed than the limit allows."""
        limit = self.limit
        if limit.rows is not None:
            return self.failed > limit.rows
        if limit.in_a_row is not None and self.running >= limit.in_a_row:
            return True
        return (
            limit.share is not None
            and self.failed >= IN_A_ROW
            and self.failed > limit.share * (self.failed + self.done)
        )

    def add(self, after: "Tally", since: "Tally") -> None:
        """Add what happened between two other tallies."""
        self.running = (
            after.running if after.done > since.done else self.running + after.running - since.running
        )
        self.done += after.done - since.done
        self.failed += after.failed - since.failed
        self.reason = after.reason or self.reason

    def check(self) -> None:
        """Raise ModelError when more has failed than the limit allows."""
        if self.exceeded:
            raise ModelError(
                f"stopped, since {self.failed:,} of {self.failed + self.done:,} rows failed, and at most "
                f"{self.limit} may (see --max-failures); the last one: {self.reason}"
            )

    def check_end(self) -> None:
        """Raise ModelError when every row that was tried has failed."""
        if self.failed and not self.done:
            raise ModelError(f"all {self.failed:,} rows failed; the last one: {self.reason}")


def tell_failures(failed: pa.Table, on_failures: OnFailures | None) -> None:
    """Pass on the rows that failed, if any; without anyone to pass them to, warn.

    Args:
        failed: columns id, model and reason.
        on_failures: who is told.
    """
    if failed.num_rows and on_failures is not None:
        on_failures(failed)
    elif failed.num_rows:
        first = failed.slice(0, 1).to_pylist()[0]
        warnings.warn(
            f"{failed.num_rows:,} rows failed and were left as they were, the first of them {first['id']!r}: "
            f"{first['reason']}",
            FailedRowsWarning,
            stacklevel=3,
        )
