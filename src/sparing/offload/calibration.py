"""The choice of what to send at each budget, and the policy that holds it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparing.offload.bench import Bench, Trial, score
from sparing.offload.codecs import CODECS
from sparing.offload.edge import Choice
from sparing.offload.gate import Gate
from sparing.offload.models import Geometry
from sparing.offload.policies import POLICIES
from sparing.offload.schemes import Scheme

EDGE_WEIGHTS = (0.0, 0.25, 0.5, 1.0)
"""The weights of the edge's distribution that `choose` tries."""


def candidate_schemes(geometry: Geometry) -> list[Scheme]:
    """Return the schemes that `calibrate` tries by default, from few patches to the whole image.

    They are raw patches by every policy at 8 and 4 bits, mosaics of different numbers of patches (the quality
    of each is what fills the budget), and the whole image in every codec, also down-scaled.
    """
    texts = [f"whole:{codec}" for codec in CODECS]
    texts += [f"whole:{codec}:{eighths}" for codec in ("dct16", "webp", "jpeg") for eighths in (6, 4)]
    texts += ["whole:avif:6"]
    texts += [f"raw:{policy}{depth}" for depth in ("", ":4") for policy in POLICIES]
    counts = {eighths: max(eighths * geometry.patches // 8, 1) for eighths in range(1, 8)}
    mosaics = [("grid", eighths, "dct8") for eighths in (1, 2, 3, 4, 5, 6, 7)]
    mosaics += [(policy, 4, "dct8") for policy in POLICIES if policy != "grid"]
    mosaics += [(policy, eighths, "dct8") for policy in ("sage", "spread") for eighths in (2, 6)]
    mosaics += [("grid", 4, "webp"), ("sage", 4, "webp"), ("grid", 6, "webp"), ("grid", 6, "avif")]
    texts += [f"mosaic:{policy}:{counts[eighths]}:{codec}" for policy, eighths, codec in mosaics]
    return [Scheme.parse(text) for text in dict.fromkeys(texts)]


@dataclass(frozen=True)
class Policy:
    """What to send at each budget, as `calibrate` found it.

    Attributes:
        choices: by budget in bytes, ascending; None where the edge alone was best.
        geometry: of the images it was found on.
        gate: which images were offloaded.
        scores: by budget, what the choice scored on the calibration set.
    """

    choices: dict[int, Choice | None]
    geometry: Geometry
    gate: Gate
    scores: dict[int, dict[str, Any]]

    def at(self, budget: int) -> Choice | None:
        """Return the choice for a budget: that of the largest calibrated budget within it."""
        within = [size for size in self.choices if size <= budget]
        return self.choices[max(within)] if within else None


def choose(
    trials: Sequence[Trial], bench: Bench, budgets: Sequence[int], *, mean: float | None = None
) -> tuple[dict[int, Choice | None], dict[int, dict[str, Any]]]:
    """Pick the best trial for each budget: the most accurate, among equals the one with fewer bytes.

    Without a limit on the mean every scheme fills the budget. With one, what was filled to a smaller budget
    may be sent at a larger one too.

    Args:
        trials: of several schemes and budgets, on the same bench.
        bench: what they were tried on.
        budgets: bytes.
        mean: bytes that payloads may have on average; None for no limit.

    Returns:
        The choice for each budget, None for the edge alone; and its score.
    """
    scored = [(trial, weight, score(trial, bench, weight)) for trial in trials for weight in EDGE_WEIGHTS]
    alone = int((bench.seen.probs.argmax(axis=1) == bench.labels).sum())
    choices: dict[int, Choice | None] = {}
    scores: dict[int, dict[str, Any]] = {}
    for budget in sorted(budgets):
        best: tuple[Choice | None, dict[str, Any]] = (
            None,
            {
                "accuracy_offloaded": alone / len(bench.labels),
                "accuracy": (alone + bench.kept_right) / bench.requests,
                "mean_bytes": 0.0,
            },
        )
        for trial, weight, result in scored:
            if trial.budget != budget and (mean is None or trial.budget > budget):
                continue
            if mean is not None and result["mean_bytes"] > mean:
                continue
            gain = result["accuracy_offloaded"] - best[1]["accuracy_offloaded"]
            if gain > 0 or (gain == 0 and result["mean_bytes"] < best[1]["mean_bytes"]):
                best = (Choice(trial.scheme, trial.budget, weight), result)
        choices[budget], scores[budget] = best
    return choices, scores
