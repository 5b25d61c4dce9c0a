"""Evaluate: scorers side by side on outputs that are known, and replayed deployments over rounds."""

from sparing.evaluate.compare import Comparison, evaluate
from sparing.evaluate.replay import Replay, Simulation, simulate

__all__ = ["Comparison", "Replay", "Simulation", "evaluate", "simulate"]
