"""How far a job has come, for whoever watches it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a job has come.

    Attributes:
        done: rows finished, those of earlier runs included.
        total: rows to run.
        seconds: how long this run has been at it.
        left: estimated seconds to go; None before the first chunk.
    """

    done: int
    total: int
    seconds: float
    left: float | None


OnProgress = Callable[[Progress], None]
