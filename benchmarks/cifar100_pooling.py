"""Pooling in one update of a CIFAR-100 cache: how far it goes, with what labels, and when it hurts.

    python benchmarks/cifar100_pooling.py --data DATA/cifar100 --work WORK

Over five random splits of the 10,000 test rows: labels come from one half, the other is judged, ranked by
entropy. WORK keeps exported models and outputs between runs.
"""

import argparse
from pathlib import Path

import numpy as np

from cifar import outputs
from machine import describe
from sparing.numerics.distributions import entropy
from sparing.refresh.pooling.exponents import Pooling, choose_pooling

PAIRS = (
    ("resnet20", "resnet56", "close"),
    ("resnet20_distilled", "resnet56", "far apart"),
    ("resnet20_distilled", "resnet44_distilled", "equals"),
    ("resnet44_distilled", "resnet20", "far apart, overconfident cache"),
    ("resnet56", "resnet20", "a step back"),
)
RATES = (0.2, 0.5, 0.72, 1.0)
LABELS = (0, 50, 100, 200, 500, 2000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with NAME.pth and test.parquet")
    parser.add_argument("--work", type=Path, required=True, help="folder for exported models and outputs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cifar100_pooling.md")
    arguments = parser.parse_args()
    lines = [
        "# Pooling, one update", "",
        f"`python benchmarks/cifar100_pooling.py --data DATA/cifar100 --work WORK` with {arguments.seeds} seeds, on "
        f"{describe()}. Accuracy in % of 5,000 held-out rows after refreshing a share of them, ranked by entropy; "
        "mean ± standard deviation over splits. `labels` are drawn from the other half; 0 means the default without "
        "labels. The full re-run is `replaced` at 1.0. `rejected` counts the splits in which the labels said that "
        "pooling hurts, so that it was not used.", "",
    ]  # fmt: skip
    for old_name, new_name, gap in PAIRS:
        old, new = (outputs(name, arguments.data, arguments.work) for name in (old_name, new_name))
        cached = old.probs.astype(np.float16).astype(np.float32)
        found: dict[str, list[list[float]]] = {}
        rejected: dict[str, int] = {}
        for seed in range(arguments.seeds):
            order = np.random.default_rng(seed).permutation(len(cached))
            source, test = order[:5000], order[5000:]
            ranked = test[np.argsort(-entropy(cached[test]), kind="stable")]
            rules = {"replaced": Pooling(0.0, 1.0), "equal weights": Pooling(1.0, 1.0)}
            for count in LABELS:
                rows = source[:count]
                judged = choose_pooling(cached[rows], new.probs[rows], old.labels[rows], seed)
                rules[f"pooled, {count} labels"] = judged.pooling
                name = f"pooled, {count} labels"
                rejected[name] = rejected.get(name, 0) + (judged.pooling.old == 0.0)
            for name, pooling in rules.items():
                after = pooling.apply(cached, new.probs).argmax(axis=1)
                runs = []
                for rate in RATES:
                    stored = cached.argmax(axis=1)
                    chosen = ranked[: int(rate * len(ranked))]
                    stored[chosen] = after[chosen]
                    runs.append(100 * float((stored == old.labels)[test].mean()))
                found.setdefault(name, []).append(runs)
        lines += [f"## {old_name} to {new_name} ({gap})", "",
                  f"| stored | {' | '.join(str(rate) for rate in RATES)} | rejected |", "|---|---|---|---|---|---|"]  # fmt: skip
        for name, runs in found.items():
            values = np.array(runs)
            cells = [
                f"{m:.2f} ± {s:.2f}" for m, s in zip(values.mean(axis=0), values.std(axis=0), strict=True)
            ]
            lines.append(f"| {name} | {' | '.join(cells)} | {rejected.get(name, '-')} |")
        lines.append("")
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
