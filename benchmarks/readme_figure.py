"""Draw the README's figure: how much of a full re-run's result each share of its forwards buys.

    python benchmarks/readme_figure.py --data DATA/cifar100 --work WORK

From `resnet20` to `resnet56` on CIFAR-100: `sparing refresh CACHE --model new=... --budget B` as it is
typed, on all 10,000 test rows, with every forward in the budget; mean of three seeds.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from cifar import outputs
from sparing.cache import Cache, import_outputs
from sparing.models import load_model
from sparing.refresh import RefreshOptions, refresh

RATES = np.linspace(0, 1, 11)
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 360, 64, 44, 24, 52
OLD, NEW = "resnet20", "resnet56"
COLOURS = {"Sparing": "#1a7f5a", "random": "#8a8f98"}


def curves(data: Path, work: Path, seeds: int = 3) -> dict[str, np.ndarray]:
    old, new = outputs(OLD, data, work), outputs(NEW, data, work)
    wanted = dict(zip(new.ids.to_pylist(), new.probs.argmax(axis=1).tolist(), strict=True))
    model = load_model(f"new={work / NEW}.parquet")
    total = {name: np.zeros(len(RATES)) for name in COLOURS}
    with tempfile.TemporaryDirectory() as folder:
        fresh, run = Path(folder) / "fresh.lance", Path(folder) / "run.lance"
        import_outputs(fresh, work / f"{OLD}.parquet", model="old")
        for name, scorer in (("Sparing", None), ("random", "random")):
            for at, rate in enumerate(RATES):
                for seed in range(seeds):
                    shutil.rmtree(run, ignore_errors=True)
                    shutil.copytree(fresh, run)
                    options = RefreshOptions(budget=f"{rate:.1f}", scorer=scorer, seed=seed)
                    if rate:
                        refresh(run, [model], options)
                    rows = Cache.open(run).get(old.ids)
                    full = np.array([wanted[row] for row in rows.ids.to_pylist()])
                    total[name][at] += (rows.probs.argmax(axis=1) == full).mean() / seeds
    return total


def draw(found: dict[str, np.ndarray]) -> str:
    low = np.floor(20 * min(values.min() for values in found.values())) / 20
    x = LEFT + RATES * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (1 - (value - low) / (1 - low)) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13" fill="#444">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold" fill="#222">'
        "CIFAR-100, ResNet-20 → ResNet-56: agreement with a full re-run</text>",
    ]
    for value in np.arange(low, 1.001, 0.05):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#e4e6ea"/>'
            f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.0%}</text>'
        )
    for rate in (0, 0.2, 0.5, 0.8, 1):
        at = LEFT + rate * (WIDTH - LEFT - RIGHT)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{rate:.0%}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
        "share of the new model's forwards that are paid for</text>"
    )
    half = len(RATES) // 2
    for (name, values), side in zip(found.items(), (-1, 1), strict=True):
        points = " ".join(f"{a:.1f},{y(v):.1f}" for a, v in zip(x, values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="2.5"/>')
        parts.append(f'<circle cx="{x[half]:.1f}" cy="{y(values[half]):.1f}" r="4" fill="{COLOURS[name]}"/>')
        parts.append(
            f'<text x="{x[half] + side * 10:.1f}" y="{y(values[half]) + side * 16:.1f}" fill="{COLOURS[name]}" '
            f'text-anchor="{"start" if side > 0 else "end"}" font-weight="bold">{name}: {values[half]:.1%} at half the work</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "refresh.svg")
    arguments = parser.parse_args()
    found = curves(arguments.data, arguments.work)
    for name, values in found.items():
        print(name, " ".join(f"{rate:.0%}:{value:.3f}" for rate, value in zip(RATES, values, strict=True)))
    arguments.out.write_text(draw(found))


if __name__ == "__main__":
    main()
