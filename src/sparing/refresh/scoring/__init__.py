"""Scoring: what ranks the rows of a round. One class per scorer; `SCORERS` lists them.

To add a scorer, write a subclass of `Scorer` and add it here.
"""

from collections.abc import Mapping

from sparing.errors import InputError
from sparing.refresh.scoring.calibrated import CalibratedEntropy
from sparing.refresh.scoring.change import Change
from sparing.refresh.scoring.class_change import ClassChange
from sparing.refresh.scoring.oracles import OracleChange, OracleGain
from sparing.refresh.scoring.regressions import DeltaTop1, MLink
from sparing.refresh.scoring.router import PlainRouter, Router
from sparing.refresh.scoring.scorer import Answers, Pairs, Scorer, ScoringRows
from sparing.refresh.scoring.unlearned import Agreement, Cema, Dkd, Entropy, LeastConfidence, Margin, Random

__all__ = [
    "OTHER_NAMES",
    "SCORERS",
    "Answers",
    "Pairs",
    "Scorer",
    "ScoringRows",
    "find_scorer",
    "refresh_scorers",
]

SCORERS: Mapping[str, type[Scorer]] = {
    scorer.name: scorer
    for scorer in (
        Entropy,
        CalibratedEntropy,
        LeastConfidence,
        Margin,
        DeltaTop1,
        Change,
        ClassChange,
        Router,
        PlainRouter,
        Cema,
        Dkd,
        MLink,
        Agreement,
        Random,
        OracleChange,
        OracleGain,
    )
}
"""Every scorer by its name, in the order in which tables list them."""

OTHER_NAMES = {"pure": "router"}
"""Further names of scorers that users may give."""


def find_scorer(name: str) -> type[Scorer]:
    """Return the scorer of a name.

    Raises:
        InputError: no scorer has it.
    """
    found = SCORERS.get(OTHER_NAMES.get(name, name))
    if found is None:
        raise InputError(f"there is no scorer {name!r}: choose one of {', '.join(SCORERS)}")
    return found


def refresh_scorers() -> list[str]:
    """List the scorers that a refresh can rank by: a cache holds one output per row, and no answers."""
    return [name for name, scorer in SCORERS.items() if not scorer.needs]
