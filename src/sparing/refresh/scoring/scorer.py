"""The contract of a scorer, and what it is handed: rows to score, and rows whose new outputs are known."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from sparing.cache.encodings import Encoded, encoded
from sparing.outputs import OutputKind, Outputs

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Arrays = Mapping[str, npt.NDArray[Any]]

Need = Literal["others", "answers", "labels"]
"""What a scorer may need beside the rows: outputs of further cached models; or, in an evaluation, what the
candidates give for the rows that are scored, and their labels."""


@dataclass(frozen=True)
class Answers:
    """What candidates give for rows.

    Attributes:
        new: n arrays of shape (m, C), what each candidate gives.
        labels: shape (m,), -1 where unknown.
    """

    new: Sequence[Floats]
    labels: Integers

    def take(self, rows: Integers) -> "Answers":
        """Return some of the rows, by position."""
        return Answers([outputs[rows] for outputs in self.new], self.labels[rows])


@dataclass(frozen=True, kw_only=True)
class ScoringRows:
    """Rows to score, with all that a scorer may look at.

    Attributes:
        outputs: what the cache holds: m rows as it stores them, or outputs of its kind.
        ties: shape (m,), seeded hashes of the ids.
        candidates: how many candidates there are, n.
        target: position of the candidate whose full re-run is the reference.
        holders: names of the models that rows may hold.
        held: shape (m,), positions in `holders`; None when all rows hold the first.
        others: outputs of further cached models, each of shape (m, C).
        answers: what the candidates give for the rows: only for scorers that need it.
        kind: what the outputs are; None for distributions.
    """

    outputs: Encoded | Outputs
    ties: npt.NDArray[np.uint64]
    candidates: int = 1
    target: int = 0
    holders: Sequence[str] = ("",)
    held: Integers | None = None
    others: Sequence[Floats] = ()
    answers: Answers | None = None
    kind: OutputKind | None = None

    def __len__(self) -> int:
        return len(self.outputs)

    @property
    def n_classes(self) -> int:
        """Length C of the distributions."""
        return self.encoded.encoding.n_classes

    @cached_property
    def encoded(self) -> Encoded:
        """The outputs as a cache stores them."""
        return encoded(self.outputs)

    @cached_property
    def probs(self) -> Floats:
        """The outputs as distributions, shape (m, C)."""
        probs: Floats = self.outputs.decode() if isinstance(self.outputs, Encoded) else self.outputs
        return probs

    @cached_property
    def holding(self) -> Integers:
        """Which model each row holds, as positions in `holders`, shape (m,)."""
        return np.zeros(len(self), dtype=np.int64) if self.held is None else self.held

    def take(self, rows: Integers) -> "ScoringRows":
        """Return some of the rows, by position."""
        return replace(
            self,
            outputs=self.outputs[rows],
            ties=self.ties[rows],
            held=None if self.held is None else self.held[rows],
            others=[outputs[rows] for outputs in self.others],
            answers=None if self.answers is None else self.answers.take(rows),
        )


@dataclass(frozen=True)
class Pairs:
    """Rows whose cached and new outputs are known: what a scorer learns from.

    Attributes:
        rows: the rows, without their answers.
        answers: what the candidates give for them.
    """

    rows: ScoringRows
    answers: Answers

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def old(self) -> Floats:
        """What the cache holds, shape (m, C)."""
        return self.rows.probs

    @property
    def new(self) -> Sequence[Floats]:
        """What each candidate gives, n arrays of shape (m, C)."""
        return self.answers.new

    @property
    def wanted(self) -> Floats:
        """What the target gives, shape (m, C)."""
        return self.answers.new[self.rows.target]

    @property
    def labels(self) -> Integers:
        """The labels, shape (m,), -1 where unknown."""
        return self.answers.labels

    def take(self, rows: Integers) -> "Pairs":
        """Return some of the rows, by position."""
        return Pairs(self.rows.take(rows), self.answers.take(rows))


class Scorer(ABC):
    """A rule from what a cache holds to a benefit per row and candidate.

    To add one, write a subclass and add it to `sparing.refresh.scoring.SCORERS`: the command line,
    `evaluate`, `simulate`, `fit`, `refresh` and ranker files read it there. A scorer that learns overrides
    `fit`, `to_arrays` and `from_arrays`, and raises `version` when its arrays change.

    Attributes:
        name: what users and files call it.
        version: version of what `to_arrays` returns; a reader refuses a later one.
        learns: whether `fit` looks at its rows; what it learned is kept in a ranker file.
        for_target: whether what it learned holds for one target only.
        any_kind: whether it ranks outputs that are not distributions, too.
        needs: what it needs beside the rows.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    learns: ClassVar[bool] = False
    for_target: ClassVar[bool] = True
    any_kind: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset()

    @classmethod
    def fit(cls, pairs: Pairs, seed: int) -> Self:  # noqa: ARG003 -- for those that learn
        """Return the scorer, learned from pairs; `seed` fixes what is drawn."""
        return cls()

    @abstractmethod
    def benefits(self, rows: ScoringRows) -> Floats:
        """Return what running each candidate on each row is predicted to bring.

        Args:
            rows: m rows, n candidates: for a scorer that learned, those that it learned of, in their order.

        Returns:
            Shape (m, n); -inf where a candidate is not to be run.
        """

    def to_arrays(self) -> Arrays:
        """Return what `from_arrays` needs, as arrays by name."""
        return {}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:  # noqa: ARG003 -- for those that learn
        """Read what `to_arrays` of this version, or of an earlier one, returned."""
        return cls()


def on_target(rows: ScoringRows, score: npt.NDArray[np.floating[Any]]) -> Floats:
    """Return benefits of a score of one number per row, (m,): it always picks the target."""
    result = np.full((len(rows), rows.candidates), -np.inf, dtype=np.float32)
    result[:, rows.target] = score
    return result
