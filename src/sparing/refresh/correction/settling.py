"""A round's correction, after its update: what screening compares is run, what is unstable is put to a vote.

Both are slices of the round like the update itself, so a kill costs at most the chunk in flight.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.numerics.distributions import js_divergence
from sparing.numerics.selection import Items, in_order
from sparing.refresh.correction.rules import missing_votes, vote
from sparing.refresh.correction.screening import RoundCorrection
from sparing.refresh.pooling.pools import Held, Labelled, Pooler, held_by, spread, stored_probs
from sparing.refresh.records import SliceRecord
from sparing.refresh.round import Round
from sparing.refresh.running import chunk_rows_for
from sparing.refresh.slices import SlicePlan, Slices, updates
from sparing.refresh.staging import Staging

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

BLOCK = 8192


def to_screen(correction: RoundCorrection, screened: pa.Table) -> pa.Table:
    """List the forwards that comparing screened rows needs: columns id and candidate (of the runnable)."""
    needed = _needed(screened)
    return pa.table(
        {
            "id": screened["id"].filter(pa.array(needed)).combine_chunks(),
            "candidate": _among_runnable(correction)[screened["alternative"].to_numpy()[needed]],
        }
    )


def plan_screening(round_: Round, slices: Slices) -> SlicePlan:
    """Plan the slice that runs what screened rows are compared with."""
    correction = _correction(round_)
    order = to_screen(correction, screened_rows(slices))
    return SlicePlan("screening", _record(order, correction), order)


def plan_voting(round_: Round, slices: Slices) -> SlicePlan:
    """Choose the most unstable screened rows, and plan the slice that runs the votes missing on them."""
    correction, screened = _correction(round_), screened_rows(slices)
    settled = _most_unstable(round_, screened, slices["screening"])
    row, model = np.nonzero(_missing(correction, screened.take(pa.array(settled))))
    order = pa.table(
        {
            "id": screened["id"].take(pa.array(settled[row])).combine_chunks(),
            "candidate": _among_runnable(correction)[model],
        }
    )
    return SlicePlan("voting", _record(order, correction), order, {"settled": pa.table({"row": settled})})


def screened_rows(slices: Slices) -> pa.Table:
    """Read the rows that the round screens, riskiest first; see `sparing.refresh.correction.screening`."""
    return updates(slices)[-1].table("screened")


def _record(order: pa.Table, correction: RoundCorrection) -> SliceRecord:
    return SliceRecord(chunk_rows=chunk_rows_for(order.num_rows, correction.given))


def corrected_rows(
    round_: Round, slices: Slices, pools: Pooler
) -> Iterator[tuple[pa.Table, Floats, Integers]]:
    """Yield the rows that the correction settles, block by block.

    Args:
        round_: the round.
        slices: what was computed.
        pools: names of what rows hold; used when the round pools.

    Yields:
        Rows of the screened table, their new distributions, and the entries of the models that they hold.
        Rows whose forwards were not all run are left out.
    """
    correction = _correction(round_)
    if "voting" not in slices:
        return
    screening, voting, screened = slices["screening"], slices["voting"], screened_rows(slices)
    kind = round_.cache.metadata.kind
    settled = voting.table("settled")["row"].to_numpy()
    missing = _missing(correction, screened.take(pa.array(settled)))
    compared = _compared(screened, screening)
    ends = missing.sum(axis=1).cumsum()
    starts = ends - missing.sum(axis=1)
    voted = np.concatenate([[0], np.cumsum(voting.finished_rows(int(missing.sum())))])
    whole = (voted[ends] - voted[starts] == ends - starts) & compared[settled]
    settled, missing, starts = settled[whole], missing[whole], starts[whole]
    if correction.pooling:
        # Every screened row keeps what its comparison ran, settled or not.
        others = np.setdiff1d(np.flatnonzero(_needed(screened) & compared), settled)
        nothing = np.zeros((len(others), missing.shape[1]), dtype=bool)
        settled = np.concatenate([settled, others])
        missing = np.concatenate([missing, nothing])
        starts = np.concatenate([starts, np.zeros(len(others), dtype=starts.dtype)])
    which = np.cumsum(_needed(screened)) - 1
    for begin in range(0, len(settled), BLOCK):
        block = slice(begin, begin + BLOCK)
        part = screened.take(pa.array(settled[block])).combine_chunks()
        held = held_by(round_.cache, part)
        old = held.probs
        shown = np.zeros((len(correction.window), *old.shape), dtype=np.float32)
        known = np.zeros(shown.shape[:2], dtype=bool)
        stored, alternative = part["stored"].to_numpy(), part["alternative"].to_numpy()
        rows = np.arange(len(part))
        mine = stored >= 0
        shown[stored[mine], rows[mine]], known[stored[mine], rows[mine]] = old[mine], True
        ran = _needed(part)
        others = screening.outputs(which[settled[block]][ran], kind)
        shown[alternative[ran], rows[ran]], known[alternative[ran], rows[ran]] = others, True
        row, model = np.nonzero(missing[block])
        # Votes were run row by row.
        votes = starts[block][row] + (np.cumsum(missing[block], axis=1) - 1)[row, model]
        shown[model, row] = voting.outputs(votes, kind)
        known[model, row] = True
        if correction.pooling:
            yield part, *_pool(correction, part, held, shown=shown, known=known, pools=pools)
            continue
        winner = vote(shown, known) if correction.variant.voting else _latest(known)
        entries = np.array([pools.metadata.model_index(name) for name in correction.window])
        yield part, shown[winner, rows], entries[winner]


def labelled_alternatives(round_: Round, slices: Slices) -> dict[str, Labelled]:
    """Collect labelled screened rows with what their comparison ran, by model."""
    correction = _correction(round_)
    if "voting" not in slices:
        return {}
    screening, screened = slices["screening"], screened_rows(slices)
    labelled = screened["label"].to_numpy() >= 0
    ran = np.flatnonzero(_needed(screened) & _compared(screened, screening) & labelled)
    which = (np.cumsum(_needed(screened)) - 1)[ran]
    chosen = screened["alternative"].to_numpy()[ran]
    found = {}
    for position, name in enumerate(correction.window):
        mine = spread(np.flatnonzero(chosen == position))
        if len(mine):
            part = screened.take(pa.array(ran[mine]))
            old = stored_probs(round_.cache, part)
            new = screening.outputs(which[mine], round_.cache.metadata.kind)
            found[name] = Labelled(
                old, new, part["label"].to_numpy(), part["model"].to_numpy().astype(np.int64)
            )
    return found


def _pool(
    correction: RoundCorrection,
    part: pa.Table,
    old: Held,
    *,
    shown: Floats,
    known: npt.NDArray[np.bool_],
    pools: Pooler,
) -> tuple[Floats, Integers]:
    now, stored = Held(old.ids, old.probs.copy(), old.models.copy()), part["stored"].to_numpy()
    for position, name in enumerate(correction.window):
        mine = known[position] & (stored != position)
        if mine.any():
            now.probs[mine], now.models[mine] = pools.join(now.take(mine), shown[position][mine], name)
    return now.probs, now.models


def _latest(known: npt.NDArray[np.bool_]) -> Integers:
    """Choose the most recent of the models (k, m) that are known of each row."""
    latest: Integers = len(known) - 1 - known[::-1].argmax(axis=0)
    return latest


def _most_unstable(round_: Round, screened: pa.Table, screening: Staging) -> Integers:
    """Rank screened rows by divergence; rows that nothing was run on diverge from nothing."""
    correction = _correction(round_)
    count = correction.step.corrected(len(screened))
    if not correction.variant.compare:
        return np.arange(count)
    needed = _needed(screened)
    ran = np.flatnonzero(needed & _compared(screened, screening))
    which = np.cumsum(needed) - 1
    divergence = np.zeros(len(screened))
    for begin in range(0, len(ran), BLOCK):
        at = ran[begin : begin + BLOCK]
        old = stored_probs(round_.cache, screened.take(pa.array(at)))
        shown = screening.outputs(which[at], round_.cache.metadata.kind)
        divergence[at] = js_divergence(old, shown)
    items = Items(divergence, screened["tie"].to_numpy(), screened["second"].to_numpy())
    settled: Integers = in_order(items)[:count]
    return settled


def _missing(correction: RoundCorrection, part: pa.Table) -> npt.NDArray[np.bool_]:
    missing = missing_votes(part["stored"].to_numpy(), part["alternative"].to_numpy(), correction.runnable)
    held = part["held"].to_numpy()[:, None] & (1 << np.arange(len(correction.window)))
    if not correction.variant.voting:
        missing[:, :-1] = False
    result: npt.NDArray[np.bool_] = missing & (held == 0)
    return result


def _needed(part: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which screened rows need a forward for their comparison."""
    alternative = part["alternative"].to_numpy()
    held = (part["held"].to_numpy() >> np.maximum(alternative, 0)) & 1
    result: npt.NDArray[np.bool_] = (alternative >= 0) & (held == 0)
    return result


def _compared(screened: pa.Table, screening: Staging) -> npt.NDArray[np.bool_]:
    """Return which screened rows have all that their comparison needs: run, or known before."""
    needed = _needed(screened)
    compared = ~needed
    compared[needed] = screening.finished_rows(int(needed.sum()))
    return compared


def _among_runnable(correction: RoundCorrection) -> npt.NDArray[np.int16]:
    """Number the window's models among those that can be run."""
    numbers: npt.NDArray[Any] = np.cumsum(correction.runnable) - 1
    return numbers.astype(np.int16)


def _correction(round_: Round) -> RoundCorrection:
    if round_.correction is None:
        raise AssertionError("this round does not correct")
    return round_.correction
