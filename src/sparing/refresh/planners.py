"""Who decides the slices of a round."""

from collections.abc import Sequence
from time import perf_counter

from sparing.account import Account
from sparing.data.samples import Samples
from sparing.models import Model
from sparing.refresh.correction.screening import screen_rows
from sparing.refresh.correction.settling import plan_screening, plan_voting, to_screen
from sparing.refresh.keeping import KeepPromise
from sparing.refresh.learning import LearnWhileSpending
from sparing.refresh.planning import left_alone, order_rows, plan_rows, score_rows
from sparing.refresh.records import RoundRecord
from sparing.refresh.round import Round
from sparing.refresh.running import chunk_rows_for, find_samples
from sparing.refresh.slices import FIRST, Planner, Purpose, SlicePlan, Slices
from sparing.storage.files import scratch


def planner_for(round_: Round, samples: Samples | None) -> Planner:
    """Return who plans a round: one that learns while it spends, unless it was told what ranks the rows."""
    if round_.promise is not None:
        return KeepPromise(round_, samples)
    if round_.learns:
        return LearnWhileSpending(round_, samples)
    return PlanOnce(round_, samples)


class PlanOnce:
    """PURE's round (Algorithm 1): the whole update is decided before its first forward, then it is corrected.

    Attributes:
        round: what was asked for.
        samples: where the sample values are; None when no model needs them.
    """

    def __init__(self, round_: Round, samples: Samples | None) -> None:
        self.round = round_
        self.samples = samples

    def next(self, slices: Slices) -> SlicePlan | None:
        """Plan the update, then, if the round corrects, its comparisons, then its votes."""
        if not slices:
            return plan_update(self.round, self.samples)
        if self.round.correction is None:
            return None
        if "screening" not in slices:
            return plan_screening(self.round, slices)
        if "voting" not in slices:
            return plan_voting(self.round, slices)
        return None

    def predicted(self, slices: Slices, *, observe: bool) -> None:  # noqa: ARG002 -- it learns nothing
        """Return None: nothing is predicted."""
        return

    def models(self, purpose: Purpose) -> Sequence[Model]:
        """Return the candidates for an update, and those of the window that can be run for its correction."""
        if purpose == "update" or self.round.correction is None:
            return self.round.candidates
        return self.round.correction.given


def plan_update(round_: Round, samples: Samples | None) -> SlicePlan:
    """Plan the first slice of a round: all rows that its budget takes, best first.

    The rows that correction will screen are chosen along with it, while the scores are at hand.

    Raises:
        InputError: the cache has no rows, or samples are missing.
    """
    account = Account()
    with scratch() as folder:
        scored = score_rows(round_, folder, account)
        capacity, costs = round_.capacity(scored.totals.rows)
        made = plan_rows(scored, capacity, costs, round_.only_positive, account)
        started = perf_counter()
        order = order_rows(scored, made)
        tables = {}
        if round_.correction is not None:
            count = round_.to_screen(scored.totals.rows)
            tables["screened"] = screen_rows(lambda: left_alone(scored, made), count)
    find_samples(order, round_.candidates, samples)
    if round_.correction is not None:
        find_samples(to_screen(round_.correction, tables["screened"]), round_.correction.given, samples)
    account.seconds["selection"] += perf_counter() - started
    record = RoundRecord(
        chunk_rows=chunk_rows_for(order.num_rows, round_.candidates, round_.cache.metadata.kind),
        command=round_.command,
        digest=round_.digest,
        what=round_.what,
        models={model.name: model.digest for model in round_.candidates},
        scorer=round_.scorer.digest,
        target=round_.target,
        seed=round_.seed,
        totals=scored.totals,
        rows_scored=account.rows_scored,
        seconds=dict(account.seconds),
        samples=None if samples is None else samples.identity,
    )
    return SlicePlan(FIRST, record, order, tables)
