"""Carrying out a round's correction: run what screening compares, choose what is unstable, run the votes.

Each part is staged like the update itself, so a kill costs at most the chunk in flight.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.data.samples import Samples
from sparing.numerics.distributions import js_divergence
from sparing.numerics.selection import Items, in_order
from sparing.progress import OnProgress
from sparing.refresh.correction.rules import missing_votes, vote
from sparing.refresh.correction.screening import RoundCorrection
from sparing.refresh.pooling.pools import Labelled, Pools, spread, stored_probs
from sparing.refresh.round import Round
from sparing.refresh.running import chunk_rows_for, run_order
from sparing.refresh.staging import Staging

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

BLOCK = 8192


def to_screen(round_: Round, screened: pa.Table) -> pa.Table:
    """List the forwards that comparing screened rows needs: columns id and candidate (of the runnable)."""
    correction = _correction(round_)
    needed = _needed(screened)
    return pa.table(
        {
            "id": screened["id"].filter(pa.array(needed)).combine_chunks(),
            "candidate": _among_runnable(correction)[screened["alternative"].to_numpy()[needed]],
        }
    )


def run_correction(
    round_: Round,
    staging: Staging,
    samples: Samples | None,
    elapsed_before: float,
    deadline: float | None,
    on_progress: OnProgress | None,
) -> bool:
    """Run a staged round's correction, or what is left of it.

    Returns:
        Whether it is finished; False when the deadline came first.
    """
    correction = _correction(round_)
    models = [model for model in correction.models if model is not None]
    batch = max(model.batch_size for model in models)
    screened = staging.table("screened")
    screening, voting = staging.inside("screening"), staging.inside("voting")

    def run(part: Staging) -> bool:
        staged = part.request()
        return run_order(
            part,
            models,
            samples,
            chunk_rows=1 if staged is None else staged["chunk_rows"],
            n_classes=round_.cache.metadata.n_classes,
            elapsed_before=elapsed_before,
            deadline=deadline,
            on_progress=on_progress,
        )

    if screening.request() is None:
        order = to_screen(round_, screened)
        screening.begin({"chunk_rows": chunk_rows_for(order.num_rows, batch)}, order)
    if not run(screening):
        return False
    if voting.request() is None:
        settled = _most_unstable(round_, screened, screening)
        row, model = np.nonzero(_missing(correction, screened.take(pa.array(settled))))
        order = pa.table(
            {
                "id": screened["id"].take(pa.array(settled[row])).combine_chunks(),
                "candidate": _among_runnable(correction)[model],
            }
        )
        voting.begin(
            {"chunk_rows": chunk_rows_for(order.num_rows, batch)}, order, settled=pa.table({"row": settled})
        )
    return run(voting)


def count_corrections(round_: Round, staging: Staging) -> dict[str, tuple[Staging, npt.NDArray[np.str_]]]:
    """Give, for each part of the correction that was begun, its folder and the models by number."""
    correction = _correction(round_)
    names = np.array([model.name for model in correction.models if model is not None])
    parts = {name: staging.inside(name) for name in ("screening", "voting")}
    return {name: (part, names) for name, part in parts.items() if part.request() is not None}


def corrected_rows(
    round_: Round, staging: Staging, pools: Pools
) -> Iterator[tuple[pa.Table, Floats, Integers]]:
    """Give the rows that the correction settles, block by block.

    Args:
        round_: the round.
        staging: what was computed.
        pools: names of what rows hold; used when the round pools.

    Yields:
        Rows of the screened table, their new distributions, and the entries of the models that they hold.
        Rows whose forwards were not all run are left out.
    """
    correction = _correction(round_)
    screening, voting = staging.inside("screening"), staging.inside("voting")
    if voting.request() is None:
        return
    screened = staging.table("screened")
    settled = voting.table("settled")["row"].to_numpy()
    missing = _missing(correction, screened.take(pa.array(settled)))
    ends = missing.sum(axis=1).cumsum()
    done = sum(len(voting.read(start).probs) for start in voting.finished())
    # Votes are run row by row in order of instability, so what is finished is a prefix of the rows.
    whole = int(np.searchsorted(ends, done, side="right"))
    settled, missing, ends = settled[:whole], missing[:whole], ends[:whole]
    if correction.pooling:
        # Every screened row keeps what its comparison ran, settled or not.
        others = np.setdiff1d(np.flatnonzero(_needed(screened)), settled)
        nothing = np.zeros((len(others), missing.shape[1]), dtype=bool)
        start = ends[-1] if whole else 0
        settled = np.concatenate([settled, others])
        missing = np.concatenate([missing, nothing])
        ends = np.concatenate([ends, np.full(len(others), start)])
    which = np.cumsum(_needed(screened)) - 1
    for begin in range(0, len(settled), BLOCK):
        block = slice(begin, begin + BLOCK)
        part = screened.take(pa.array(settled[block])).combine_chunks()
        old = stored_probs(round_.cache, part)
        shown = np.zeros((len(correction.window), *old.shape), dtype=np.float32)
        known = np.zeros(shown.shape[:2], dtype=bool)
        stored, alternative = part["stored"].to_numpy(), part["alternative"].to_numpy()
        rows = np.arange(len(part))
        mine = stored >= 0
        shown[stored[mine], rows[mine]], known[stored[mine], rows[mine]] = old[mine], True
        ran = _needed(part)
        compared = screening.outputs(which[settled[block]][ran], old.shape[1])
        shown[alternative[ran], rows[ran]], known[alternative[ran], rows[ran]] = compared, True
        row, model = np.nonzero(missing[block])
        first = int(ends[begin] - missing[begin].sum())
        shown[model, row] = voting.outputs(np.arange(first, first + len(row)), old.shape[1])
        known[model, row] = True
        if correction.pooling:
            yield part, *_pool(correction, part, old, shown, known, stored, pools)
            continue
        winner = vote(shown, known)
        entries = np.array([pools.metadata.model_index(name) for name in correction.window])
        yield part, shown[winner, rows], entries[winner]


def labelled_alternatives(round_: Round, staging: Staging) -> dict[str, Labelled]:
    """Collect labelled screened rows with what their comparison ran, by model."""
    correction = _correction(round_)
    screening = staging.inside("screening")
    screened = staging.table("screened")
    if staging.inside("voting").request() is None:
        return {}
    ran = np.flatnonzero(_needed(screened) & (screened["label"].to_numpy() >= 0))
    which = (np.cumsum(_needed(screened)) - 1)[ran]
    chosen = screened["alternative"].to_numpy()[ran]
    found = {}
    for position, name in enumerate(correction.window):
        mine = spread(np.flatnonzero(chosen == position))
        if len(mine):
            part = screened.take(pa.array(ran[mine]))
            old = stored_probs(round_.cache, part)
            new = screening.outputs(which[mine], old.shape[1])
            found[name] = Labelled(
                old, new, part["label"].to_numpy(), part["model"].to_numpy().astype(np.int64)
            )
    return found


def _pool(
    correction: RoundCorrection,
    part: pa.Table,
    old: Floats,
    shown: Floats,
    known: npt.NDArray[np.bool_],
    stored: Integers,
    pools: Pools,
) -> tuple[Floats, Integers]:
    probs, held = old.copy(), part["model"].to_numpy().astype(np.int64)
    for position, name in enumerate(correction.window):
        mine = known[position] & (stored != position)
        if mine.any():
            probs[mine], held[mine] = pools.join(probs[mine], held[mine], shown[position][mine], name)
    return probs, held


def _most_unstable(round_: Round, screened: pa.Table, screening: Staging) -> Integers:
    """Rank screened rows by divergence; rows that nothing was run on diverge from nothing."""
    correction = _correction(round_)
    needed = _needed(screened)
    divergence = np.zeros(len(screened))
    for begin in range(0, screening.order().num_rows, BLOCK):
        at = np.flatnonzero(needed)[begin : begin + BLOCK]
        old = stored_probs(round_.cache, screened.take(pa.array(at)))
        shown = screening.outputs(np.arange(begin, begin + len(at)), old.shape[1])
        divergence[at] = js_divergence(old, shown)
    items = Items(divergence, screened["tie"].to_numpy(), screened["second"].to_numpy())
    settled: Integers = in_order(items)[: correction.step.corrected(len(screened))]
    return settled


def _missing(correction: RoundCorrection, part: pa.Table) -> npt.NDArray[np.bool_]:
    missing = missing_votes(part["stored"].to_numpy(), part["alternative"].to_numpy(), correction.runnable)
    held = part["held"].to_numpy()[:, None] & (1 << np.arange(len(correction.window)))
    result: npt.NDArray[np.bool_] = missing & (held == 0)
    return result


def _needed(part: pa.Table) -> npt.NDArray[np.bool_]:
    """Say which screened rows need a forward for their comparison."""
    held = (part["held"].to_numpy() >> part["alternative"].to_numpy()) & 1
    result: npt.NDArray[np.bool_] = held == 0
    return result


def _among_runnable(correction: RoundCorrection) -> npt.NDArray[np.int16]:
    """Number the window's models among those that can be run."""
    numbers: npt.NDArray[Any] = np.cumsum(correction.runnable) - 1
    return numbers.astype(np.int16)


def _correction(round_: Round) -> RoundCorrection:
    if round_.correction is None:
        raise AssertionError("this round does not correct")
    return round_.correction
