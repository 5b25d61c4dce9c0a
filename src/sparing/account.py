"""What was spent: forwards, seconds and bytes."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Account:
    """What a round has spent so far, restarts included.

    Attributes:
        rows_scored: rows that were ranked.
        forwards: model outputs computed or replayed for the round, by model name.
        fit_forwards: those of them that `fit` had already spent, by model name.
        wasted_forwards: at most how many forwards a kill made us repeat.
        seconds: wall seconds by phase: scoring, selection, reading, model, writing.
        model_seconds: wall seconds inside each model.
        bytes_written: bytes that the commit added to the cache.
    """

    rows_scored: int = 0
    forwards: Counter[str] = field(default_factory=Counter)
    fit_forwards: Counter[str] = field(default_factory=Counter)
    wasted_forwards: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    model_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    bytes_written: int = 0

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
            "wasted_forwards": self.wasted_forwards,
            "seconds": {phase: round(value, 6) for phase, value in self.seconds.items()},
            "model_seconds": {name: round(value, 6) for name, value in self.model_seconds.items()},
            "bytes_written": self.bytes_written,
        }
