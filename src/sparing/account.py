"""What was spent: forwards, seconds and bytes."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Costed(Protocol):
    """A model, as far as an account needs it."""

    cost: float | None
    unit: str


@dataclass
class Account:
    """What a round has spent so far, restarts included.

    Attributes:
        rows_scored: rows that were ranked.
        forwards: model outputs computed or replayed for the round, by model name.
        fit_forwards: those of them that `fit` had already spent, by model name.
        screening_forwards: those of them that correction ran to compare screened rows, by model name.
        voting_forwards: those of them that correction ran to settle rows, by model name.
        reused_rows: rows with an identical sample as another, whose output they share: no forward was run.
        failed_rows: rows that failed, and were left as they were.
        wasted_forwards: at most how many forwards were in vain: repeated after a kill, or of batches that
            failed.
        wasted_cost: what those cost, by unit, of models with a stated cost.
        seconds: wall seconds by phase: scoring, selection, reading, model, wasted (in batches that failed),
            writing.
        model_seconds: wall seconds inside each model.
        bytes_written: bytes that the commit added to the cache.
    """

    rows_scored: int = 0
    forwards: Counter[str] = field(default_factory=Counter)
    fit_forwards: Counter[str] = field(default_factory=Counter)
    screening_forwards: Counter[str] = field(default_factory=Counter)
    voting_forwards: Counter[str] = field(default_factory=Counter)
    reused_rows: int = 0
    failed_rows: int = 0
    wasted_forwards: int = 0
    wasted_cost: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    model_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    bytes_written: int = 0

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Add seconds by phase, of which "model:NAME" are a model's own."""
        for phase, spent in seconds.items():
            kind, _, name = phase.partition(":")
            self.seconds[kind] += spent
            if kind == "model":
                self.model_seconds[name] += spent

    def waste(self, model: Costed, forwards: int) -> None:
        """Count forwards of a model that were in vain."""
        self.wasted_forwards += forwards
        if forwards and model.cost is not None:
            self.wasted_cost[model.unit] += forwards * model.cost

    def per_forward(self, model: str) -> float | None:
        """Give the measured seconds of one forward of a model; None when none was run."""
        count = self.forwards[model]
        return self.model_seconds[model] / count if count else None

    def to_dict(self) -> dict[str, Any]:
        """Give the account as JSON values; seconds are rounded to microseconds."""
        return {
            "rows_scored": self.rows_scored,
            "forwards": dict(self.forwards),
            "fit_forwards": dict(self.fit_forwards),
            "screening_forwards": dict(self.screening_forwards),
            "voting_forwards": dict(self.voting_forwards),
            "reused_rows": self.reused_rows,
            "failed_rows": self.failed_rows,
            "wasted_forwards": self.wasted_forwards,
            "wasted_cost": {unit: round(cost, 12) for unit, cost in self.wasted_cost.items()},
            "seconds": {phase: round(value, 6) for phase, value in self.seconds.items()},
            "model_seconds": {name: round(value, 6) for name, value in self.model_seconds.items()},
            "bytes_written": self.bytes_written,
        }
