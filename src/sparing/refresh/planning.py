"""From a cache and a scorer to a plan: every row is scored once, chunk by chunk, and ranked from disk."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.account import Account
from sparing.budget import KEEP, Chunk, Plan, make_plan
from sparing.cache import Rows
from sparing.cache.transactions import writing
from sparing.errors import InputError
from sparing.numerics.selection import Items, in_order, tie_keys
from sparing.outputs import Classes, OutputKind
from sparing.refresh.records import Totals
from sparing.refresh.round import Round
from sparing.storage.arrow import read_arrow, write_arrow

# A second hash settles equal tie keys: for strings, sorting the ids themselves would cost more than all the
# rest, for a case that comes up once in 2**64 pairs of rows.
_SECOND_HASH = 0x5EC0


class Scored:
    """All rows of a cache with their benefits, spooled to a temporary folder.

    Ranking reads the benefits several times, scoring them anew each time would cost more, and keeping them in
    memory would grow with the cache.
    """

    def __init__(self, folder: Path, kind: OutputKind) -> None:
        self.folder = folder
        self.kind = kind
        self.totals = Totals()
        self._chunks = 0

    def add(
        self,
        rows: Rows,
        benefits: npt.NDArray[np.float32],
        ties: npt.NDArray[np.uint64],
        second: npt.NDArray[np.uint64],
        extra: dict[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        """Spool one chunk; -inf benefits mark candidates that are not to be run on a row."""
        labelled, right = rows.labels >= 0, right_rows(rows, self.kind)
        table = pa.table(
            {
                "id": rows.ids,
                "position": np.arange(self.totals.rows, self.totals.rows + len(rows)),
                "model": rows.models.astype(np.int16),
                "tie": ties,
                "second": second,
                "label": rows.labels,
                "right": right.astype(np.int8),
                **{f"benefit{j}": benefits[:, j] for j in range(benefits.shape[1])},
                **(extra or {}),
            }
        )
        with writing(self.folder):
            write_arrow(self._path(self._chunks), table)
        self._chunks += 1
        self.totals = Totals(
            self.totals.rows + len(rows),
            self.totals.competing + int((benefits.max(axis=1) > -np.inf).sum()),
            self.totals.labelled + int(labelled.sum()),
            self.totals.right + int(right.sum()),
        )

    def tables(self) -> Iterator[pa.Table]:
        """Read the chunks back, mapped into memory."""
        for index in range(self._chunks):
            yield read_arrow(self._path(index))

    def chunks(self) -> Iterator[Chunk]:
        """Read back what ranking needs: benefits, tie keys and second hashes."""
        for table in self.tables():
            yield benefits_of(table), table["tie"].to_numpy(), table["second"].to_numpy()

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:08d}.arrow"


def benefits_of(table: pa.Table) -> npt.NDArray[np.float32]:
    """Put a spooled chunk's benefits back together, shape (m, n)."""
    columns = [name for name in table.column_names if name.startswith("benefit")]
    return np.stack([table[name].to_numpy() for name in columns], axis=1)


def right_rows(rows: Rows, kind: OutputKind) -> npt.NDArray[np.bool_]:
    """Return where rows hold an output that is right; False without a label."""
    right = np.zeros(len(rows), dtype=bool)
    labelled = np.flatnonzero(rows.labels >= 0)
    if not len(labelled):
        return right
    if isinstance(kind, Classes):
        right[labelled] = rows.answers[labelled] == rows.labels[labelled]
    else:
        right[labelled] = kind.correct(rows.outputs[labelled], rows.labels[labelled])
    return right


def score_rows(round_: Round, folder: Path, account: Account) -> Scored:
    """Score every row of a cache.

    A candidate is not run on rows that it wrote itself, nor on rows that `fit` already ran it on: those do
    not compete, since their outputs are there.

    Args:
        round_: the cache, the candidates and what ranks the rows.
        folder: where to spool.
        account: seconds and rows are added to it.

    Returns:
        The spooled rows.

    Raises:
        InputError: the cache has no rows.
    """
    cache, seed = round_.cache, round_.seed
    held_by = [cache.metadata.holding(name) for name in round_.names]
    scored = Scored(folder, cache.metadata.kind)
    started = perf_counter()
    for rows in cache.scan():
        ties = tie_keys(rows.ids, seed)
        benefits = round_.benefits(rows, ties)
        for column, indices in enumerate(held_by):
            benefits[np.isin(rows.models, indices), column] = -np.inf
        extra = round_.correction.columns(rows, benefits, round_.names, cache) if round_.correction else None
        for item in round_.known:
            if item is not None:
                there = pc.is_in(rows.ids, value_set=item.ids).to_numpy(zero_copy_only=False)
                benefits[there] = -np.inf
                if extra is not None:
                    extra["risk"][there] = -np.inf
        scored.add(rows, benefits, ties, tie_keys(rows.ids, seed ^ _SECOND_HASH), extra)
    if not scored.totals.rows:
        raise InputError("the cache has no rows: there is nothing to refresh")
    account.seconds["scoring"] += perf_counter() - started
    account.rows_scored += scored.totals.rows
    return scored


def plan_rows(
    scored: Scored,
    capacity: float,
    costs: Sequence[float] | None,
    only_positive: bool,
    account: Account,
) -> Plan:
    """Find the plan that spends a capacity best; see `sparing.budget.make_plan`."""
    started = perf_counter()
    made = make_plan(scored.chunks, capacity, costs, only_positive)
    account.seconds["selection"] += perf_counter() - started
    return made


def count_assigned(scored: Scored, made: Plan, n: int) -> npt.NDArray[np.int64]:
    """Count the rows that a plan gives to each of n candidates."""
    counts = np.zeros(n, dtype=np.int64)
    for benefits, ties, second in scored.chunks():
        assigned = made.assign(benefits, ties, second)
        counts += np.bincount(assigned[assigned != KEEP], minlength=n)
    return counts


def left_alone(scored: Scored, made: Plan) -> Iterator[tuple[pa.Table, npt.NDArray[np.bool_]]]:
    """Read the spooled chunks with the rows that neither the plan nor what `fit` ran refreshes."""
    for table in scored.tables():
        assigned = made.assign(benefits_of(table), table["tie"].to_numpy(), table["second"].to_numpy())
        yield table, (assigned == KEEP) & (table["risk"].to_numpy() > -np.inf)


def order_rows(scored: Scored, made: Plan) -> pa.Table:
    """List the rows that a plan takes, best first, with what committing them needs.

    Returns:
        Columns id, position (in the order of the cache's scan), model (that it holds), candidate (int16),
        score (float32), label (int64, -1 for none), right (int8: whether the cached class was the label).
    """
    kept = ["id", "position", "model", "tie", "second", "label", "right"]
    parts: list[pa.Table] = []
    for table in scored.tables():
        benefits, ties = benefits_of(table), table["tie"].to_numpy()
        assigned = made.assign(benefits, ties, table["second"].to_numpy())
        taken = np.flatnonzero(assigned != KEEP)
        candidate = assigned[taken]
        part = table.select(kept).take(pa.array(taken))
        score = benefits[taken, candidate]
        rank = score if made.costs is None else _per_cost(score, np.asarray(made.costs)[candidate])
        part = part.append_column("candidate", pa.array(candidate.astype(np.int16)))
        part = part.append_column("score", pa.array(score)).append_column("rank", pa.array(rank))
        parts.append(part)
    whole = pa.concat_tables(parts)
    best = in_order(Items(*(whole[name].to_numpy() for name in ("rank", "tie", "second"))))
    return (
        whole.select(["id", "position", "model", "candidate", "score", "label", "right"])
        .take(pa.array(best))
        .combine_chunks()
    )


def _per_cost(score: npt.NDArray[Any], costs: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    with np.errstate(divide="ignore"):
        return score / costs
