"""Baselines of PURE that regress what the target gives from the cached distribution."""

from dataclasses import dataclass
from typing import Self

from sparing.refresh.scoring.network import Layers, forward, layers_from_arrays, layers_to_arrays, regress
from sparing.refresh.scoring.scorer import Arrays, Floats, Pairs, Scorer, ScoringRows, on_target


@dataclass(frozen=True)
class DeltaTop1(Scorer):
    """Predicted rise of the largest probability (PURE, Table 1)."""

    layers: Layers

    name = "delta-top1"
    learns = True

    @classmethod
    def fit(cls, pairs: Pairs, seed: int) -> Self:
        """Regress the rise that the target brings."""
        return cls(regress(pairs.old, pairs.wanted.max(axis=1) - pairs.old.max(axis=1), seed=seed))

    def benefits(self, rows: ScoringRows) -> Floats:
        """Return predicted rises, in [-1, 1] or a little beyond."""
        return on_target(rows, forward(self.layers, rows.probs)[:, 0])

    def to_arrays(self) -> Arrays:
        """Return the network's arrays."""
        return layers_to_arrays(self.layers)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Read what `to_arrays` returned."""
        return cls(layers_from_arrays(arrays))


@dataclass(frozen=True)
class MLink(Scorer):
    """MLink (PURE, B.6): map old outputs to new ones; refresh where the mapped output is least confident."""

    layers: Layers

    name = "mlink"
    learns = True

    @classmethod
    def fit(cls, pairs: Pairs, seed: int) -> Self:
        """Regress the target's distributions."""
        return cls(regress(pairs.old, pairs.wanted, seed=seed))

    def benefits(self, rows: ScoringRows) -> Floats:
        """Return one minus the largest entry of the mapped output."""
        return on_target(rows, 1 - forward(self.layers, rows.probs).max(axis=1))

    def to_arrays(self) -> Arrays:
        """Return the network's arrays."""
        return layers_to_arrays(self.layers)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Read what `to_arrays` returned."""
        return cls(layers_from_arrays(arrays))
