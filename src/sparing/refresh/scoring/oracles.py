"""Oracles: scorers that see the answers, which frame the others in an evaluation."""

from typing import ClassVar

import numpy as np

from sparing.refresh.scoring.scorer import Answers, Floats, Need, Scorer, ScoringRows, on_target


class OracleChange(Scorer):
    """Where the target's class differs from the cached one."""

    name = "oracle-change"
    needs: ClassVar[frozenset[Need]] = frozenset({"answers"})

    def benefits(self, rows: ScoringRows) -> Floats:
        """Return 1 where the class changes, else 0."""
        wanted = _answers(rows).new[rows.target].argmax(axis=1)
        return on_target(rows, (rows.probs.argmax(axis=1) != wanted).astype(np.float32))


class OracleGain(Scorer):
    """Where the target's class is right and the cached one is not."""

    name = "oracle-gain"
    needs: ClassVar[frozenset[Need]] = frozenset({"answers", "labels"})

    def benefits(self, rows: ScoringRows) -> Floats:
        """Return 1 where the target mends a row, -1 where it spoils one, else 0."""
        answers = _answers(rows)
        before = rows.probs.argmax(axis=1) == answers.labels
        after = answers.new[rows.target].argmax(axis=1) == answers.labels
        return on_target(rows, after.astype(np.float32) - before.astype(np.float32))


def _answers(rows: ScoringRows) -> Answers:
    if rows.answers is None:
        raise AssertionError("an oracle was given no answers")
    return rows.answers
