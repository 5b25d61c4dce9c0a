"""Scorers side by side on output tables: what each would have stored at every update rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.budget import Budget
from sparing.data.tables import OutputTable, read_outputs
from sparing.errors import InputError
from sparing.evaluate.advice import Figures, advise
from sparing.evaluate.scorers import rows_for, scorer_names
from sparing.numerics.metrics import headroom
from sparing.numerics.selection import Items, in_order, tie_keys
from sparing.refresh.scoring import Answers, Pairs, ScoringRows, find_scorer
from sparing.refresh.scoring.unlearned import cema_limit

Labels = npt.NDArray[np.int64]

FRAME = ("random", "oracle-change", "oracle-gain")
"""Scorers that headroom is measured between: always computed, where there are labels for them."""


@dataclass(frozen=True)
class Comparison:
    """What `evaluate` found.

    Attributes:
        scorers: by scorer and rate ("0.2"): accuracy and accuracy_std (None without labels), consistency and
            consistency_std, headroom (of consistency) and headroom_accuracy (None without labels), forwards.
        target: the model whose full re-run is the reference.
        rows: common rows.
        train_rows: rows that learned scorers were fitted on.
        test_rows: rows judged, per seed.
        advice: which scorer to use on this data, in a sentence.
        recommended: its name; "random" when routing is not appropriate.
        notes: what else to know.
    """

    scorers: dict[str, dict[str, dict[str, float | None]]]
    target: str
    rows: int
    train_rows: int
    test_rows: int
    advice: str
    recommended: str
    notes: tuple[str, ...] = ()


def evaluate(
    old: Any,
    new: dict[str, Any],
    *,
    rates: Sequence[str] = ("20%", "50%", "80%"),
    scorers: str = "all",
    seeds: int = 5,
    train_rows: int | None = None,
    cross_fit: bool = False,
    target: str | None = None,
    others: Sequence[Any] = (),
) -> Comparison:
    """Judge scorers on outputs that are known for every row.

    Per seed the rows are split: learned scorers are fitted on one part, and all are judged on the other.

    Args:
        old: the cached model's output table; see `read_outputs`.
        new: output tables of the candidates by name; rows are matched by id.
        rates: update rates, as decimals or percentages.
        scorers: names separated by commas, or "all".
        seeds: how many splits.
        train_rows: rows to fit on; by default half, at most 5,000.
        cross_fit: judge every row instead: each half is scored by what the other half taught.
        target: the candidate whose full re-run is the reference; the last by default.
        others: output tables of further cached models, for the scorer "agreement".

    Returns:
        The comparison.

    Raises:
        InputError: no common rows, unknown names, or too few rows.
        BudgetError: a rate cannot be read.
    """
    names = list(new)
    if not names:
        raise InputError("there is no new model to compare with: give at least one")
    target = names[-1] if target is None else target
    if target not in names:
        raise InputError(f"the target {target!r} is not among {', '.join(names)}")
    if seeds < 1:
        raise InputError("at least one seed is needed")
    if not rates:
        raise InputError("there is no update rate to compare at: give at least one, such as 50%")
    budgets = {_plain(rate): Budget.parse(rate) for rate in rates}
    ids, pairs = align(old, list(new.values()), names.index(target), others)
    m = len(pairs)
    labelled = bool((pairs.labels >= 0).any())
    chosen = scorer_names(scorers, len(others), labelled)
    fitted_on = min(m // 2, 5000) if train_rows is None else train_rows
    if not 2 <= fitted_on <= m - 2:
        raise InputError(f"{m} common rows cannot be split into {fitted_on} to fit on and some to judge")
    if cross_fit:
        fitted_on = m // 2
    figures: dict[str, dict[str, list[Figures]]] = {name: {rate: [] for rate in budgets} for name in chosen}
    for seed in range(seeds):
        for name, by_rate in _one_seed(
            pairs,
            ids,
            budgets,
            [*chosen, *(name for name in FRAME if labelled or name != "oracle-gain")],
            seed=seed,
            train_rows=fitted_on,
            cross_fit=cross_fit,
        ).items():
            if name in figures:
                for rate, values in by_rate.items():
                    figures[name][rate].append(values)
    table = {
        name: {rate: _summary(runs, labelled) for rate, runs in by_rate.items()}
        for name, by_rate in figures.items()
    }
    test_rows = m if cross_fit else m - fitted_on
    recommended, advice = advise(figures, test_rows)
    return Comparison(
        table,
        target,
        rows=m,
        train_rows=fitted_on,
        test_rows=test_rows,
        advice=advice,
        recommended=recommended,
        notes=_notes(pairs, budgets, chosen),
    )


def align(old: Any, new: Sequence[Any], target: int, others: Sequence[Any] = ()) -> tuple[pa.Array, Pairs]:
    """Read output tables and match their rows by id.

    Returns:
        The common ids, sorted, and the rows.

    Raises:
        InputError: no common ids, or classes that differ.
    """
    tables = [read_outputs(source) for source in (old, *new, *others)]
    ids = tables[0].ids
    for table in tables[1:]:
        if table.ids.type != ids.type:
            raise InputError("the tables have ids of different types: all strings, or all integers")
        if table.probs.shape[1] != tables[0].probs.shape[1]:
            raise InputError(
                f"the tables have {tables[0].probs.shape[1]} and {table.probs.shape[1]} classes: "
                "old and new models must share their classes"
            )
        ids = ids.filter(pc.is_in(ids, value_set=table.ids))
    if len(ids) < 4:
        raise InputError(f"the tables share {len(ids)} ids: too few to compare anything on")
    ids = ids.take(pc.sort_indices(ids))
    probs = [table.probs[_positions(table, ids)] for table in tables]
    labels = np.full(len(ids), -1, dtype=np.int64)
    for table in tables:
        if table.labels is not None:
            known = table.labels[_positions(table, ids)]
            labels = np.where(labels < 0, known, labels)
    rows = ScoringRows(
        outputs=probs[0],
        ties=np.zeros(len(ids), dtype=np.uint64),
        candidates=len(new),
        target=target,
        others=probs[1 + len(new) :],
    )
    return ids, Pairs(rows, Answers(probs[1 : 1 + len(new)], labels))


def store(rows: Pairs, benefits: npt.NDArray[np.float32], ids: pa.Array, count: int, seed: int) -> Labels:
    """Refresh the rows of largest benefit with their best candidate.

    Args:
        rows: m rows.
        benefits: shape (m, n).
        ids: m ids; equal benefits are ordered by a seeded hash of them.
        count: rows to refresh.
        seed: of that hash.

    Returns:
        Shape (m,), the classes that the cache then holds.
    """
    best = in_order(Items(benefits.max(axis=1), tie_keys(ids, seed), np.arange(len(rows))))[:count]
    stored: Labels = rows.old.argmax(axis=1)
    choice = benefits[best].argmax(axis=1)
    classes = np.stack([probs[best].argmax(axis=1) for probs in rows.new])
    stored[best] = classes[choice, np.arange(len(best))]
    return stored


def _one_seed(
    pairs: Pairs,
    ids: pa.Array,
    budgets: dict[str, Budget],
    names: Sequence[str],
    seed: int,
    train_rows: int,
    cross_fit: bool,
) -> dict[str, dict[str, Figures]]:
    order = np.random.default_rng(seed).permutation(len(pairs))
    first, rest = np.sort(order[:train_rows]), np.sort(order[train_rows:])
    judged = np.arange(len(pairs)) if cross_fit else rest
    rows, judged_ids = pairs.take(judged), ids.take(pa.array(judged))
    stored: dict[str, dict[str, Labels]] = {}
    for name in dict.fromkeys(names):
        benefits = np.empty((len(pairs), len(pairs.new)), dtype=np.float32)
        for train, test in [(first, rest), (rest, first)] if cross_fit else [(first, rest)]:
            scorer = find_scorer(name).fit(pairs.take(train), seed)
            benefits[test] = scorer.benefits(rows_for(scorer, pairs.take(test), seed))
        stored[name] = {
            rate: store(rows, benefits[judged], judged_ids, budget.rows(len(rows)), seed)
            for rate, budget in budgets.items()
        }
    full = rows.wanted.argmax(axis=1)
    known = rows.labels >= 0
    result: dict[str, dict[str, Figures]] = {}
    for name, by_rate in stored.items():
        result[name] = {}
        for rate, classes in by_rate.items():
            figures = {
                "consistency": float((classes == full).mean()),
                "forwards": float(budgets[rate].rows(len(rows))),
            }
            figures["headroom"] = headroom(
                figures["consistency"],
                float((stored["random"][rate] == full).mean()),
                float((stored["oracle-change"][rate] == full).mean()),
            )
            if known.any():
                figures["accuracy"] = _hits(classes, rows.labels, known)
                figures["headroom_accuracy"] = headroom(
                    figures["accuracy"],
                    _hits(stored["random"][rate], rows.labels, known),
                    _hits(stored["oracle-gain"][rate], rows.labels, known),
                )
            result[name][rate] = figures
    return result


def _hits(classes: Labels, labels: Labels, known: npt.NDArray[np.bool_]) -> float:
    return float((classes == labels)[known].mean())


def _summary(runs: list[Figures], labelled: bool) -> dict[str, float | None]:
    def mean(key: str) -> float:
        return float(np.mean([run[key] for run in runs]))

    def std(key: str) -> float:
        return float(np.std([run[key] for run in runs]))

    return {
        "accuracy": mean("accuracy") if labelled else None,
        "accuracy_std": std("accuracy") if labelled else None,
        "consistency": mean("consistency"),
        "consistency_std": std("consistency"),
        "headroom": mean("headroom"),
        "headroom_accuracy": mean("headroom_accuracy") if labelled else None,
        "forwards": int(mean("forwards")),
    }


def _notes(pairs: Pairs, budgets: dict[str, Budget], chosen: Sequence[str]) -> tuple[str, ...]:
    if "cema" not in chosen:
        return ()
    from sparing.numerics.distributions import entropy

    inside = float((entropy(pairs.old) <= cema_limit(pairs.old.shape[1])).mean())
    beyond = [rate for rate in budgets if budgets[rate].rows(len(pairs)) > inside * len(pairs)]
    if not beyond:
        return ()
    return (
        f"cema: only {100 * inside:.1f} % of the rows lie below H_max = 0.4 ln C, "
        f"so at {', '.join(beyond)} the rest was filled from just above its band",
    )


def _positions(table: OutputTable, ids: pa.Array) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = pc.index_in(ids, value_set=table.ids).to_numpy().astype(np.int64)
    return found


def _plain(rate: str) -> str:
    """Write a rate as a plain decimal: 20% becomes 0.2."""
    budget = Budget.parse(rate)
    if budget.unit != "share":
        raise InputError(f"{rate!r} is no rate: write a share such as 20% or 0.2")
    return f"{budget.amount.normalize():f}"
