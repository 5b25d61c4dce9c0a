"""Every scorer behind one interface: learn from rows whose old and new outputs are known, then rank others.

The learned ones see training rows only; the two oracles see the answers, and are for evaluation only.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError
from sparing.numerics.distributions import UNCERTAINTY, apply_temperature, entropy, fit_temperature
from sparing.refresh.scoring.change import train_change
from sparing.refresh.scoring.ranker import train_ranker

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Rows whose cached and new outputs are known.

    Attributes:
        old: shape (m, C), what the cache holds.
        new: n arrays of shape (m, C), what each candidate gives.
        target: which candidate's full re-run is the reference.
        labels: shape (m,), -1 where unknown.
        others: outputs of further cached models, each (m, C).
        held: shape (m,), which model's output each row holds; None when all hold the same.
    """

    old: Floats
    new: Sequence[Floats]
    target: int
    labels: Labels
    others: Sequence[Floats] = ()
    held: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.old)

    def take(self, rows: npt.NDArray[np.int64]) -> "Pairs":
        """Give some of the rows, by position."""
        return Pairs(
            self.old[rows],
            [probs[rows] for probs in self.new],
            target=self.target,
            labels=self.labels[rows],
            others=[probs[rows] for probs in self.others],
            held=None if self.held is None else self.held[rows],
        )

    @property
    def holders(self) -> npt.NDArray[np.int64]:
        """Which model each row holds."""
        return np.zeros(len(self), dtype=np.int64) if self.held is None else self.held


Score = Callable[[Pairs], Floats]
"""From rows to benefits (m, n), -inf where a candidate is not to be run; only oracles look at `new`."""

Learner = Callable[[Pairs, int], Score]
"""From training rows and a seed to a score."""


def _on_target(score: Callable[[Pairs], npt.NDArray[np.floating]]) -> Score:
    """Make a score of one number per row: it always picks the target."""

    def benefits(rows: Pairs) -> Floats:
        result = np.full((len(rows), len(rows.new)), -np.inf, dtype=np.float32)
        result[:, rows.target] = score(rows)
        return result

    return benefits


def _uncertainty(name: str) -> Learner:
    return lambda _train, _seed: _on_target(lambda rows: UNCERTAINTY[name](rows.old))


def _random(_train: Pairs, seed: int) -> Score:
    return _on_target(lambda rows: np.random.default_rng(seed).random(len(rows)))


def _calibrated_entropy(train: Pairs, _seed: int) -> Score:
    """Entropy after temperature scaling (PURE, B.2): to labels, or without any to the target's classes.

    One temperature per model held, since each is off in its own way.
    """
    used = train.labels >= 0
    truth = train.labels
    if not used.any():
        used, truth = np.ones(len(train), dtype=bool), train.new[train.target].argmax(axis=1)
    everyone = fit_temperature(train.old[used], truth[used])
    temperatures = {
        int(holder): fit_temperature(train.old[mine], truth[mine])
        for holder in np.unique(train.holders)
        if (mine := used & (train.holders == holder)).sum() >= 50
    }

    def score(rows: Pairs) -> npt.NDArray[np.floating]:
        result = np.empty(len(rows), dtype=np.float32)
        for holder in np.unique(rows.holders):
            mine = rows.holders == holder
            temperature = temperatures.get(int(holder), everyone)
            result[mine] = entropy(apply_temperature(rows.old[mine], temperature))
        return result

    return _on_target(score)


def _pure(form: str) -> Learner:
    """PURE's router; "plain" is the paper's own input."""

    def learn(train: Pairs, seed: int) -> Score:
        names = [str(index) for index in range(len(train.new))]
        ranker = train_ranker(
            train.old,
            train.new,
            names,
            names,
            form=form,  # type: ignore[arg-type]
            seed=seed,
        )
        return lambda rows: ranker.benefits(rows.old)

    return learn


def _change(train: Pairs, _seed: int) -> Score:
    names = [str(index) for index in range(1 + int(train.holders.max()))]
    predictor = train_change(train.old, train.new, train.target, names, train.holders)

    def score(rows: Pairs) -> Floats:
        seen = [str(index) for index in range(1 + int(rows.holders.max()))]
        return predictor.benefits(rows.old, seen, rows.holders)

    return score


def _regression(train: Pairs, wanted: npt.NDArray[np.floating], seed: int) -> Callable[[Floats], Floats]:
    """Fit the ranker's network to another quantity."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    network = MLPRegressor(
        hidden_layer_sizes=(64,), batch_size=min(32, len(train)), max_iter=30, tol=0.0, random_state=seed
    )
    with warnings.catch_warnings():
        # A fixed number of epochs is the recipe, not a failure to converge.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(train.old, wanted)
    return lambda probs: np.asarray(network.predict(probs), dtype=np.float32)


def _delta_top1(train: Pairs, seed: int) -> Score:
    """Predicted rise of the largest probability (PURE, Table 1)."""
    rise = train.new[train.target].max(axis=1) - train.old.max(axis=1)
    predict = _regression(train, rise, seed)
    return _on_target(lambda rows: predict(rows.old))


def _mlink(train: Pairs, seed: int) -> Score:
    """MLink (PURE, B.6): map old outputs to new ones; refresh where the mapped output is least confident."""
    predict = _regression(train, train.new[train.target], seed)
    return _on_target(lambda rows: 1 - predict(rows.old).max(axis=1))


def cema_score(old: Floats) -> Floats:
    """Rank rows as CEMA does: by entropy, inside the band up to H_max = 0.4 ln C (PURE, B.6).

    H_min is where the rate cuts this ranking. When the band holds fewer rows than the rate asks for, the
    rest come from just above its upper edge.

    Args:
        old: shape (m, C).

    Returns:
        Shape (m,): the entropy inside the band, minus the entropy above it.
    """
    values = entropy(old)
    result: Floats = np.where(values <= cema_limit(old.shape[1]), values, -values).astype(np.float32)
    return result


def cema_limit(n_classes: int) -> float:
    """Give H_max = 0.4 ln C, in nats."""
    return 0.4 * float(np.log(n_classes))


def _cema(_train: Pairs, _seed: int) -> Score:
    return _on_target(lambda rows: cema_score(rows.old))


def _agreement(_train: Pairs, _seed: int) -> Score:
    """Disagreement of the cached model with further cached models: how many differ, then how far apart."""

    def score(rows: Pairs) -> npt.NDArray[np.floating]:
        everyone: Floats = np.stack([rows.old, *rows.others])
        differing = (everyone.argmax(axis=2) != rows.old.argmax(axis=1)).mean(axis=0)
        # The entropy of the mean settles equal counts; scaled so that it never outweighs one vote.
        spread = entropy(everyone.mean(axis=0)) / np.log(rows.old.shape[1])
        result: npt.NDArray[np.floating] = differing + spread * 0.999 / len(everyone)
        return result

    return _on_target(score)


def _oracle_change(_train: Pairs, _seed: int) -> Score:
    return _on_target(
        lambda rows: (rows.old.argmax(axis=1) != rows.new[rows.target].argmax(axis=1)).astype(np.float32)
    )


def _oracle_gain(_train: Pairs, _seed: int) -> Score:
    def score(rows: Pairs) -> npt.NDArray[np.floating]:
        before = rows.old.argmax(axis=1) == rows.labels
        after = rows.new[rows.target].argmax(axis=1) == rows.labels
        gain: Floats = after.astype(np.float32) - before.astype(np.float32)
        return gain

    return _on_target(score)


SCORERS: dict[str, Learner] = {
    "entropy": _uncertainty("entropy"),
    "calibrated-entropy": _calibrated_entropy,
    "least-confidence": _uncertainty("least-confidence"),
    "margin": _uncertainty("margin"),
    "delta-top1": _delta_top1,
    "change": _change,
    "pure": _pure("sorted"),
    "pure-plain": _pure("plain"),
    "cema": _cema,
    "dkd": _uncertainty("entropy"),
    "mlink": _mlink,
    "agreement": _agreement,
    "random": _random,
    "oracle-change": _oracle_change,
    "oracle-gain": _oracle_gain,
}
"""All scorers. "change" predicts label changes; "dkd" as PURE's B.6 describes it is entropy ranking."""

LEARNED = ("calibrated-entropy", "delta-top1", "change", "pure", "pure-plain", "mlink")
ORACLES = ("oracle-change", "oracle-gain")


def scorer_names(asked: str, others: int, labelled: bool) -> list[str]:
    """Read a comma-separated list of scorers.

    Args:
        asked: names, or "all" for every one that the data allows.
        others: number of further cached models.
        labelled: whether there are labels.

    Raises:
        InputError: an unknown name, or one that the data does not allow.
    """
    lacking = set() if labelled else {"oracle-gain"}
    if not others:
        lacking.add("agreement")
    if asked == "all":
        return [name for name in SCORERS if name not in lacking]
    names = [name.strip() for name in asked.split(",") if name.strip()]
    for name in names:
        if name not in SCORERS:
            raise InputError(f"there is no scorer {name!r}: choose among {', '.join(SCORERS)}, or all")
        if name in lacking:
            need = "labels" if name == "oracle-gain" else "a second cached model (--old twice)"
            raise InputError(f"the scorer {name!r} needs {need}")
    return names
