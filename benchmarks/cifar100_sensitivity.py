"""How much the numbers of sequential correction matter (PURE, Table 13 and Figure 7).

    python benchmarks/cifar100_sensitivity.py --data DATA/cifar100 --work WORK

Replays the deployment of `cifar100_rounds.py` with one number of Table 3's schedule changed at a time: 61
configurations. The routers learn from 2,000 rows of the other half. Writes a table and a picture.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from cifar100_rounds import tables
from machine import describe
from plotly.subplots import make_subplots

from sparing.evaluate import simulate
from sparing.refresh.correction import Schedule
from sparing.report import write_page

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with NAME.pth and test.parquet")
    parser.add_argument("--work", type=Path, required=True, help="folder for exported models and outputs")
    parser.add_argument("--seeds", type=int, default=3)
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
        f"{base.mean():.2f} ± {base.std():.2f}, {base_forwards:,.0f} forwards. Picture: `cifar100_sensitivity.svg.html`.", "",
        "| parameter | range | best | gain over the baseline | spread (max - min) |", "|---|---|---|---|---|",
    ]  # fmt: skip
    details = ["", "| parameter | value | round-4 accuracy | forwards |", "|---|---|---|---|"]
    figure = make_subplots(rows=1, cols=len(GRID), subplot_titles=list(GRID), shared_yaxes=True)
    for column, (parameter, values) in enumerate(GRID.items(), start=1):
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
        figure.add_trace(
            go.Scatter(x=values, y=means, error_y={"array": errors}, mode="lines+markers", name=parameter),
            row=1, col=column,
        )  # fmt: skip
    figure.update_layout(height=420, showlegend=False, yaxis_title="round-4 accuracy (%)")
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / "cifar100_sensitivity.md").write_text(
        "\n".join(lines + details) + "\n", encoding="utf-8"
    )
    write_page(arguments.work / "cifar100_sensitivity.html", "Sensitivity of sequential correction", [figure])
    print("\n".join(lines))


if __name__ == "__main__":
    main()
