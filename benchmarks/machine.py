"""What machine a benchmark ran on, in the words that its result file carries."""

import os

from sparing.machine import describe

__all__ = ["describe", "load"]


def load() -> str:
    """Give the load average, so that a reader can tell whether the machine was quiet."""
    return "load average " + " ".join(f"{value:.1f}" for value in os.getloadavg())
