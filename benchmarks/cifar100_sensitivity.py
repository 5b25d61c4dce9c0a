"""How much the numbers of sequential correction matter (PURE, Table 13 and Figure 7).

    python benchmarks/cifar100_sensitivity.py --data DATA/cifar100 --work WORK

Replays the deployment of `cifar100_rounds.py` with one number of Table 3's schedule changed at a time: 61
configurations. The rankers learn from 2,000 rows of the other half. Writes a table and a picture.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from cifar100_rounds import tables
from machine import describe
from sparing.evaluate import simulate
from sparing.refresh.correction.rules import Schedule

BASE = Schedule()
GRID = {
    "beta": np.round(np.linspace(0.0, 3.0, 13), 4),
    "sigma": np.round(np.linspace(0.10, 0.32, 12), 4),
    "screening ratio": np.round(np.linspace(0.02, 0.24, 12), 4),
    "correction ratio": np.round(np.linspace(0.15, 0.95, 12), 4),
    "selection rate": np.round(np.linspace(0.25, 0.75, 11), 4),
}
"""Screening and correction ratios are those of round 2; later rounds keep Table 3's distance to it."""


def configuration(parameter: str, value: float) -> tuple[Schedule, str]:
    if parameter == "selection rate":
        return BASE, f"{value}"
    if parameter in ("beta", "sigma"):
        return replace(BASE, **{parameter: value}), "50%"
    key = "screen" if parameter.startswith("screening") else "correct"
    shift = value - getattr(BASE.steps[0], key)
    steps = [
        replace(step, **{key: round(min(max(getattr(step, key) + shift, 0.0), 1.0), 4)})
        for step in BASE.steps
    ]
    return replace(BASE, steps=tuple(steps)), "50%"


def draw(curves: dict[str, tuple[list[float], list[float], list[float]]]) -> str:
    """Draw one panel per parameter, all on the same scale of accuracy, with error bars over seeds."""
    low = min(m - e for _, means, errors in curves.values() for m, e in zip(means, errors, strict=True))
    high = max(m + e for _, means, errors in curves.values() for m, e in zip(means, errors, strict=True))
    parts = []
    for panel, (name, (values, means, errors)) in enumerate(curves.items()):
        left = 50 + 210 * panel

        def x(value: float, left: int = left, values: list[float] = values) -> float:
            return left + 180 * (value - values[0]) / (values[-1] - values[0])

        def y(accuracy: float) -> float:
            return 240 - 200 * (accuracy - low) / (high - low)

        points = [(x(v), y(m)) for v, m in zip(values, means, strict=True)]
        parts.append(f'<rect x="{left - 8}" y="32" width="196" height="216" fill="none" stroke="#ccc"/>')
        parts.append(f'<text x="{left + 90}" y="22" text-anchor="middle">{name}</text>')
        parts += [
            f'<text x="{x(v):.1f}" y="264" text-anchor="middle">{v}</text>' for v in (values[0], values[-1])
        ]
        for (a, _), m, e in zip(points, means, errors, strict=True):
            parts.append(f'<path d="M{a:.1f} {y(m - e):.1f}V{y(m + e):.1f}" stroke="#999"/>')
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="#d95f02" stroke-width="2"/>')
    for accuracy in (low, high):
        height = 240 - 200 * (accuracy - low) / (high - low)
        parts.append(f'<text x="38" y="{height + 4:.1f}" text-anchor="end">{accuracy:.1f}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1100 280" font-family="sans-serif" '
        f'font-size="12"><rect width="1100" height="280" fill="white"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with NAME.pth and test.parquet")
    parser.add_argument("--work", type=Path, required=True, help="folder for exported models and outputs")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()

    def measure(schedule: Schedule, budget: str) -> tuple[np.ndarray, float]:
        accuracies, forwards = [], []
        for seed in range(arguments.seeds):
            replay = simulate(
                tables(seed, arguments.data, arguments.work),
                methods="pure", budget=budget, seeds=1, first_seed=seed, schedule=schedule, train_rows=2000, both=False,
            ).methods["pure"]  # fmt: skip
            accuracies.append(100 * replay.accuracy[0, -1])
            forwards.append(replay.forwards.sum())
        return np.array(accuracies), float(np.mean(forwards))

    base, base_forwards = measure(BASE, "50%")
    lines = [
        "# Sensitivity of sequential correction", "",
        f"`python benchmarks/cifar100_sensitivity.py --data DATA/cifar100 --work WORK` with {arguments.seeds} seeds, on "
        f"{describe()}. Round-4 accuracy in % (mean ± standard deviation over seeds) of `pure` in the deployment of "
        f"`cifar100_rounds.md`; {1 + sum(map(len, GRID.values()))} configurations. Baseline (Table 3): "
        f"{base.mean():.2f} ± {base.std():.2f}, {base_forwards:,.0f} forwards. ![sensitivity](cifar100_sensitivity.svg)", "",
        "| parameter | range | best | gain over the baseline | spread (max - min) |", "|---|---|---|---|---|",
    ]  # fmt: skip
    details = ["", "| parameter | value | round-4 accuracy | forwards |", "|---|---|---|---|"]
    curves: dict[str, tuple[list[float], list[float], list[float]]] = {}
    for parameter, values in GRID.items():
        means, errors = [], []
        for value in values.tolist():
            accuracies, forwards = measure(*configuration(parameter, value))
            means.append(float(accuracies.mean()))
            errors.append(float(accuracies.std()))
            details.append(
                f"| {parameter} | {value} | {means[-1]:.2f} ± {errors[-1]:.2f} | {forwards:,.0f} |"
            )
            print(details[-1], flush=True)
        best = int(np.argmax(means))
        lines.append(
            f"| {parameter} | {values[0]} to {values[-1]} | {values[best]} | {means[best] - base.mean():+.2f} | "
            f"{max(means) - min(means):.2f} |"
        )
        curves[parameter] = (values.tolist(), means, errors)
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / "cifar100_sensitivity.md").write_text(
        "\n".join(lines + details) + "\n", encoding="utf-8"
    )
    (arguments.out / "cifar100_sensitivity.svg").write_text(draw(curves), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
