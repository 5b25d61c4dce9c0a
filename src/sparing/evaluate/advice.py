"""The sentence at the end of a comparison: which scorer to use on this data, or that none is worth it."""

import numpy as np
import numpy.typing as npt

from sparing.refresh.scoring import find_scorer

Figures = dict[str, float]

LEAST_HEADROOM = 0.05
"""Below this share of the headroom a ranking is not worth its keep."""


def advise(figures: dict[str, dict[str, list[Figures]]], test_rows: int) -> tuple[str, str]:
    """Recommend a scorer by the headroom of consistency, averaged over rates.

    Another scorer than entropy is recommended only where it beats it by more than twice the noise.

    Args:
        figures: by scorer, rate and split: what was reached, with "headroom".
        test_rows: rows judged per split.

    Returns:
        The scorer's name ("random" when routing is not appropriate) and the sentence.
    """
    by_scorer = {
        name: np.array([[run["headroom"] for run in runs] for runs in by_rate.values()]).mean(axis=0)
        for name, by_rate in figures.items()
        if "answers" not in find_scorer(name).needs and name != "random"
    }
    if not by_scorer:
        return "random", "No scorer was compared that could be recommended: add entropy."
    start = "entropy" if "entropy" in by_scorer else next(iter(by_scorer))
    if np.isnan(by_scorer[start]).all():
        return "random", "Nothing to gain: the target would change none of these rows."
    gains = {name: values - by_scorer[start] for name, values in by_scorer.items() if name != start}
    beyond = {name: g.mean() for name, g in gains.items() if g.mean() > 2 * noise(g, test_rows)}
    best = max(beyond, key=lambda name: beyond[name], default=start)
    reached = float(by_scorer[best].mean())
    if reached < max(LEAST_HEADROOM, 2 * noise(by_scorer[best], test_rows)):
        return "random", (
            f"Routing is not appropriate here: the best scorer ({best}) captures {100 * reached:.0f} % "
            "of the headroom, no more than chance. Refresh everything, or rows at random."
        )
    text = f"Use {best}: it captures {100 * reached:.1f} % of the headroom"
    if best != start:
        text += f", {_points(gains[best], test_rows)} more than {start}"
    router = next((name for name in gains if find_scorer(name).name == "router"), best)
    if router != best:
        verdict = "beats" if router in beyond else "does not beat"
        text += (
            f"; the learned router {verdict} {start} beyond its noise ({_points(gains[router], test_rows)})"
        )
    learned = {name: g for name, g in gains.items() if find_scorer(name).learns}
    if best == start and learned:
        nearest = max(learned, key=lambda name: learned[name].mean())
        text += f"; of the learned scorers {nearest} comes nearest ({_points(learned[nearest], test_rows)})"
    return best, text + "."


def noise(values: npt.NDArray[np.float64], test_rows: int) -> float:
    """Return the standard error of a mean over random splits of the same rows.

    Splits that share rows are not independent: Nadeau and Bengio (2003) add n_test / n_train to 1 / splits;
    here it is taken as 1, which is right for halves and careful for smaller test parts.

    Args:
        values: shape (splits,).
        test_rows: rows judged per split; with one split, the noise is taken as 1 / sqrt(test_rows).
    """
    if len(values) < 2:
        return float(1 / np.sqrt(test_rows))
    return float(np.std(values, ddof=1) * np.sqrt(1 / len(values) + 1))


def _points(gains: npt.NDArray[np.float64], test_rows: int) -> str:
    return f"{100 * gains.mean():+.1f} ± {100 * noise(gains, test_rows):.1f} points"
