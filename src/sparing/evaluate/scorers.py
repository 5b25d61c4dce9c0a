"""Which scorers an evaluation compares, and the rows that it hands them."""

from dataclasses import replace

import numpy as np

from sparing.errors import InputError
from sparing.refresh.scoring import SCORERS, Pairs, Scorer, ScoringRows, find_scorer


def scorer_names(asked: str, others: int, labelled: bool) -> list[str]:
    """Read a comma-separated list of scorers.

    Args:
        asked: names, or "all" for every one that the data allows.
        others: number of further cached models.
        labelled: whether there are labels.

    Raises:
        InputError: no name, an unknown one, or one that the data does not allow.
    """
    lacking = {}
    if not labelled:
        lacking["labels"] = "labels"
    if not others:
        lacking["others"] = "a second cached model (--old twice)"
    if asked == "all":
        return [name for name, scorer in SCORERS.items() if not scorer.needs & set(lacking)]
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if not names:
        raise InputError("no scorer is named: name at least one, or all")
    for name in names:
        for need in sorted(find_scorer(name).needs & set(lacking)):
            raise InputError(f"the scorer {name!r} needs {lacking[need]}")
    return names


def rows_for(scorer: type[Scorer] | Scorer, pairs: Pairs, seed: int) -> ScoringRows:
    """Return rows as a scorer may see them: with their answers only where it needs them.

    Args:
        scorer: the scorer.
        pairs: m rows.
        seed: of the tie keys.
    """
    ties = np.random.default_rng(seed).integers(2**64 - 1, size=len(pairs), dtype=np.uint64, endpoint=True)
    return replace(pairs.rows, ties=ties, answers=pairs.answers if "answers" in scorer.needs else None)
