"""What a refresh ranks by once it has run a few rows: two models, joined where that helps.

Without columns of the samples, where a class goes under the new model says more than how often it changes:
on a production update the label model saves a tenth of the forwards. On networks of one kind it says
nothing, and its weight is zero: it is used only where held-out rows say so.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparing.refresh.learned.change_model import ChangeModel, Choice
from sparing.refresh.learned.features import FeatureEncoder, RowFeatures, join_features
from sparing.refresh.learned.label_model import Guess, LabelModel
from sparing.refresh.learned.logistic import fit_around, log_loss, log_odds, sigmoid

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

STANDARD_ERRORS = 2.0
LEAST_GAIN = 0.01
FOLDS = 4
LIMIT = 13.8
FIRST_KEPT, LAST_KEPT = 300, 39_700
"""Where more rows were run, the probe and the last ones, closest to the threshold, are learned from."""
MAX_WEIGHTS = 1_000_000
"""The label model is left out where it would have more weights: fits would take longer than they save."""


@dataclass(frozen=True)
class Blend:
    """Whether the label model is used to rank.

    Attributes:
        used: it is.
        gain: how much it lowers the held-out log-loss, nats per row.
        error: standard error of the gain.
    """

    used: bool = False
    gain: float = 0.0
    error: float = 0.0


@dataclass(frozen=True)
class HeldOut:
    """What models that have not seen them say of rows that were run.

    Attributes:
        new: shape (k,), the new model's classes.
        cached: shape (k,), the cached classes.
        guess: the label model's predictions.
        logits: shape (k,), log-odds of a change.
    """

    new: Integers
    cached: Integers
    guess: Guess
    logits: Doubles


class Learner:
    """Ranks rows by how likely their class changes; learns from the rows that were run.

    Its state is a function of the calls of `observe`, in order: the same slices give the same bits on the
    same machine. A resumed refresh observes the slices that it has staged again.

    Attributes:
        seen: how many rows were observed.
        change: the model of changes.
        labels: the model of the new classes; None where it would be too large.
        blend: whether both rank together.
        held_out: what held-out models say of the rows that were run, when the label model was fitted last;
            None while too few were run.
    """

    def __init__(self, encoder: FeatureEncoder, size: int, *, always: bool = False) -> None:
        """Begin with entropy.

        Args:
            encoder: what made the features.
            size: K, number of classes that the new model may answer; the first C are the cached model's.
            always: fit the label model after every slice, also where it does not rank: it takes most of the
                time.
        """
        widths = encoder.widths
        self.always = always
        self.change = ChangeModel(widths, encoder.n_classes)
        small = sum(widths.values()) * size <= MAX_WEIGHTS
        self.labels = LabelModel(widths, size) if small else None
        self.blend = Blend()
        self.held_out: HeldOut | None = None
        self.seen = 0
        self._weights: Doubles | None = None
        self._rows: RowFeatures | None = None
        self._new = np.empty(0, dtype=np.int64)

    @property
    def choice(self) -> Choice:
        """What the model of changes uses."""
        return self.change.choice

    @property
    def learned(self) -> bool:
        """Whether rows are ranked by more than entropy."""
        return self.choice.learned or self.blend.used

    def observe(self, rows: RowFeatures, new_label: Integers) -> None:
        """Take in a slice that was run.

        Args:
            rows: k rows; each at most once per refresh.
            new_label: shape (k,), the new model's classes, in [0, K).
        """
        if not len(rows):
            return
        self.seen += len(rows)
        kept = rows if self._rows is None else join_features([self._rows, rows])
        new = np.concatenate([self._new, new_label])
        if len(kept) > FIRST_KEPT + LAST_KEPT:
            some = np.r_[0:FIRST_KEPT, len(kept) - LAST_KEPT : len(kept)]
            kept, new = kept.take(some), new[some]
        self._rows, self._new = kept, new
        changed = (kept.cached != new).astype(np.float64)
        reviewed = self.change.fit(kept, changed, self.seen)
        if self.labels is not None and (reviewed or self.blend.used or self.always):
            self.blend, self.held_out = Blend(), None
            self.labels.fit(kept, new)
            if self.labels.ready:
                self._join(kept, changed, self.labels.held_out(kept))

    def benefit(self, rows: RowFeatures) -> Doubles:
        """Score rows, (m,) in [0, 1], higher is more worth running; compare between two observations only."""
        return self.probability(rows) if self.blend.used else self.change.benefit(rows)

    def probability(self, rows: RowFeatures, guess: Guess | None = None) -> Doubles:
        """Predict how likely the class of rows changes, (m,) in [0, 1].

        Args:
            rows: m rows.
            guess: the label model's answer for them, where it is known already.
        """
        alone = self.change.probability(rows)
        if not self.blend.used or self.labels is None or self._weights is None:
            return alone
        logits = np.clip(log_odds(alone), -LIMIT, LIMIT)
        return sigmoid(_inputs(logits, guess or self.labels.guess(rows), rows.cached) @ self._weights)

    def _join(self, rows: RowFeatures, changed: Doubles, guess: Guess) -> None:
        alone = np.clip(self.change.held_out(rows, changed), -LIMIT, LIMIT)
        inputs = _inputs(alone, guess, rows.cached)
        # Both sides may recalibrate the change model, so that the gain is the label model's.
        plain, both = np.empty(len(rows)), np.empty(len(rows))
        folds = np.arange(len(rows)) % FOLDS
        for fold in range(FOLDS):
            held = folds == fold
            for width, logits in ((2, plain), (inputs.shape[1], both)):
                weights = fit_around(inputs[~held, :width], changed[~held], _prior(width))
                logits[held] = inputs[held, :width] @ weights
        gain = log_loss(plain, changed) - log_loss(both, changed)
        mean, error = float(gain.mean()), float(gain.std() / np.sqrt(len(gain)))
        used = mean > STANDARD_ERRORS * error and mean > LEAST_GAIN
        self.blend = Blend(used, mean, error)
        if used:
            self._weights = fit_around(inputs, changed, _prior(inputs.shape[1]))
        self.held_out = HeldOut(self._new, rows.cached, guess, both if used else alone)


def _inputs(logits: Doubles, guess: Guess, cached: Integers) -> Doubles:
    """One, the log-odds of a change by both models, and whether the label model predicts another class."""
    moved = (guess.label != cached).astype(np.float64)
    return np.column_stack([np.ones(len(logits)), logits, -log_odds(guess.kept), moved])


def _prior(width: int) -> Doubles:
    result = np.zeros(width)
    result[1] = 1.0
    return result
